"""We test the configuration that containerd gets."""

from __future__ import annotations

import subprocess
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.facts.containerd import SNAPSHOTTER
from meshstrap.operations.containerd_config import configuration, problem, toml
from meshstrap.operations.system import merge, write_secret

PAUSE = "registry.k8s.io/pause:3.10.1"


def test_the_configuration_is_what_containerd_reads() -> None:
    over = {"plugins": {"io.containerd.cri.v1.runtime": {"disable_apparmor": True}}}
    read = tomllib.loads(toml(merge(configuration(PAUSE, systemd_cgroup=False, version="2.1.4"), over)))
    runtime = read["plugins"]["io.containerd.cri.v1.runtime"]
    assert read["version"] == 3
    assert runtime["disable_apparmor"] is True
    assert runtime["cni"]["bin_dirs"] == ["/opt/cni/bin"]
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is False
    assert read["plugins"]["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == PAUSE


@pytest.mark.parametrize("version", ["1.6.33", "v1.7.28"])
def test_containerd_1_gets_version_2_which_it_reads(version: str) -> None:
    read = tomllib.loads(toml(configuration(PAUSE, systemd_cgroup=True, version=version)))
    cri = read["plugins"]["io.containerd.grpc.v1.cri"]
    assert read["version"] == 2
    assert cri["sandbox_image"] == PAUSE
    assert cri["cni"]["bin_dir"] == "/opt/cni/bin"
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True


def test_lists_of_tables_are_written_and_none_takes_a_setting_out() -> None:
    over = {"plugins": {"x": {"unpack_config": [{"platform": "linux/amd64", "gone": None}]}}, "root": None}
    read = tomllib.loads(toml(merge({"root": "/data"}, over)))
    assert read == {"plugins": {"x": {"unpack_config": [{"platform": "linux/amd64"}]}}}


@pytest.mark.parametrize(
    ("config", "version", "said"),
    [
        ({}, "1.7.28", None),
        ({"version": 2}, "1.7.28", None),
        ({"version": 2}, "2.1.4", "version is not 3"),
        ({"plugins": {"io.containerd.cri.v1.runtime": {}}}, "1.7.28", "io.containerd.grpc.v1.cri"),
        ({"plugins": {"io.containerd.cri.v1.runtime": {}}}, "2.1.4", None),
        ({"plugins": {"io.containerd.grpc.v1.cri": {"registry": {}}}}, "2.1.4", "io.containerd.cri.v1.images"),
        ({"plugins": {"io.containerd.grpc.v1.cri": {"stream_server_port": "0"}}}, "2.1.4", None),
        ({"a": {"b": [1, {"c": object()}]}}, "2.1.4", "a.b[1].c is object"),
        ({"a": [None]}, "2.1.4", "a[0] is NoneType"),
    ],
)
def test_what_containerd_would_not_read_is_refused(config: dict[str, Any], version: str, said: str | None) -> None:
    found = problem(config, version)
    assert (found is None) if said is None else (found is not None and said in found)


def test_a_secret_is_no_part_of_a_command() -> None:
    command = write_secret("/etc/containerd/config.toml", "hunter2")
    assert "hunter2" not in repr(vars(command)) + str(command)


@pytest.mark.parametrize(
    ("dump", "found"),
    [
        ("[plugins.'io.containerd.cri.v1.images']\n  snapshotter = 'native'\n", "native"),
        ('[plugins."io.containerd.grpc.v1.cri".containerd]\n  snapshotter = "zfs"\n', "zfs"),
        ("[proxy_plugins.x]\n  snapshotter = \"x\"\n[plugins.'io.containerd.cri.v1.images']\n  a = 1\n", ""),
        ("[plugins.'io.containerd.cri.v1.images']\n  snapshotter = 'overlayfs'\n", ""),
    ],
)
def test_the_kubelets_snapshotter_is_the_one_of_cri(dump: str, found: str) -> None:
    script = SNAPSHOTTER.replace("grep -qs", "true #").replace(" /etc/containerd/config.toml; then", "\nif true; then")
    script = script.replace("if true #", "#", 1)
    done = subprocess.run(
        ["sh", "-c", f"containerd() {{ cat; }}\n{script}\necho \"$CONTAINERD_SNAPSHOTTER\""],
        input=dump, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{found}\n"


# TOML knows no character that stands for half of one, nor integers beyond 64 bits.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
VALUES = st.recursive(
    PLAIN, lambda inner: st.dictionaries(TEXT, inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=10
)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_toml_is_read_back_as_it_was(settings: dict[str, object]) -> None:
    assert tomllib.loads(toml(settings)) == settings
