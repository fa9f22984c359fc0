"""We test what a node lacks of kernel settings, programs and files, and what a service was started with."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.bundle.lock import Lock, Program
from meshstrap.facts.system import File, Kernel
from meshstrap.operations.system import (
    MODULES_FILE,
    SYSCTL_FILE,
    BundleError,
    find_programs,
    kernel_files,
    merge,
    missing_programs,
    name_problem,
    network_problem,
    started_with,
    texts_problem,
    version_problem,
    write,
    write_changed,
)

PATHS = {"kubelet": "/bin/kubelet", "kubeadm": "/bin/kubeadm", "runc": "/sbin/runc"}


def program(name: str, digest: str) -> Program:
    return Program(name=name, version="v1", platform="linux/amd64", sha256=digest * 64, size=10, source="test")


PROGRAMS = {"kubelet": program("kubelet", "a"), "kubeadm": program("kubeadm", "a"), "runc": program("runc", "b")}


def there(digest: str, mode: str = "755") -> File:
    return {"sha256": digest * 64, "mode": mode}


def test_a_blob_of_several_names_is_sent_once() -> None:
    groups = missing_programs(PROGRAMS, PATHS, {})
    assert [(blob.sha256[0], source, names) for blob, source, names in groups] == [
        ("a", None, ["kubelet", "kubeadm"]),
        ("b", None, ["runc"]),
    ]


def test_a_name_whose_blob_is_there_under_another_is_linked() -> None:
    groups = missing_programs(PROGRAMS, PATHS, {"/bin/kubeadm": there("a"), "/sbin/runc": there("b")})
    assert [(source, names) for _, source, names in groups] == [("/bin/kubeadm", ["kubelet"])]


def test_what_is_there_is_not_sent() -> None:
    assert missing_programs(PROGRAMS, PATHS, {p: there("b" if "runc" in p else "a") for p in PATHS.values()}) == []


@pytest.mark.parametrize("wrong", [there("c"), there("b", mode="644")])
def test_another_content_and_another_mode_are_put_right(wrong: File) -> None:
    known = {"/bin/kubelet": there("a"), "/bin/kubeadm": there("a"), "/sbin/runc": wrong}
    assert [names for _, _, names in missing_programs(PROGRAMS, PATHS, known)] == [["runc"]]


def test_a_program_that_the_bundle_lacks_for_this_platform_is_named() -> None:
    lock = Lock(programs=(PROGRAMS["kubelet"],))
    with pytest.raises(BundleError, match=r"bundle.lock.yaml: has no kubeadm, runc for linux/amd64"):
        find_programs(lock, PATHS, "linux/amd64", "images")
    with pytest.raises(BundleError, match="linux/arm64"):
        find_programs(lock, {"kubelet": ""}, "linux/arm64", "images")
    assert find_programs(lock, {"kubelet": ""}, "linux/amd64", "images") == {"kubelet": PROGRAMS["kubelet"]}


def kernel(*, loadable: bool, bridge: bool) -> Kernel:
    sysctls = {"net.ipv4.ip_forward": "1", "fs.inotify.max_user_instances": "128"}
    if bridge:
        sysctls["net.bridge.bridge-nf-call-iptables"] = "1"
    module = {"there": True, "loadable": loadable}
    return {
        "modules": {"overlay": module, "br_netfilter": module},  # type: ignore[dict-item]
        "sysctls": sysctls,
    }


def test_modules_are_kept_over_a_boot_where_there_are_modules() -> None:
    assert kernel_files(kernel(loadable=True, bridge=True))[MODULES_FILE] == "overlay\nbr_netfilter\n"
    assert MODULES_FILE not in kernel_files(kernel(loadable=False, bridge=True))


def test_sysctls_that_the_kernel_has_are_kept_over_a_boot() -> None:
    assert kernel_files(kernel(loadable=False, bridge=False))[SYSCTL_FILE] == (
        "net.ipv4.ip_forward = 1\nfs.inotify.max_user_instances = 8192\n"
    )
    assert "bridge-nf-call-iptables = 1" in kernel_files(kernel(loadable=False, bridge=True))[SYSCTL_FILE]


def test_only_what_differs_is_written() -> None:
    digest = hashlib.sha256(b"text\n").hexdigest()
    texts = {"/etc/a": "text\n", "/etc/b": "text\n", "/etc/c": "text\n"}
    known: dict[str, File] = {
        "/etc/a": {"sha256": digest, "mode": "644"},
        "/etc/b": {"sha256": digest, "mode": "600"},
    }
    assert list(write_changed(texts, known)) == [write("/etc/b", "text\n"), write("/etc/c", "text\n")]


def test_a_written_file_is_the_text_whatever_is_in_it(tmp_path: Path) -> None:
    path, text = tmp_path / "new dir" / "file", 'it\'s "%s" $HOME `id` \\n\n'
    subprocess.run(["sh", "-c", write(str(path), text, "600").get_raw_value()], check=True)
    assert path.read_text() == text
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_what_a_service_was_started_with_tells_every_file_and_program() -> None:
    first = started_with({"/unit": "a"}, {"/bin/x": "1"})
    assert first == started_with({"/unit": "a"}, {"/bin/x": "1"})
    assert (
        len({first, started_with({"/unit": "b"}, {"/bin/x": "1"}), started_with({"/unit": "a"}, {"/bin/x": "2"})}) == 3
    )


def test_settings_are_merged_table_by_table() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merge(base, {"a": {"c": [3]}, "e": 2}) == {"a": {"b": 1, "c": [3]}, "d": 1, "e": 2}
    assert merge(base, {"a": 1})["a"] == 1
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


SETTINGS = st.recursive(
    st.integers() | st.text(), lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=3), max_leaves=8
)
TABLES = st.dictionaries(st.text(max_size=2), SETTINGS, max_size=3)


@given(TABLES)
def test_merging_nothing_changes_nothing_and_merging_itself_neither(table: dict[str, object]) -> None:
    assert merge(table, {}) == table
    assert merge({}, table) == table
    assert merge(table, table) == table


@pytest.mark.parametrize("value", [1.34, "1.34", "1.34.10; reboot", None, "1.34.x", "v1.34.10"])
def test_a_version_that_is_none_is_named_with_its_key(value: object) -> None:
    assert f"kubernetes_version: {value!r}" in str(version_problem("kubernetes_version", value))


def test_another_distributions_version_is_refused_with_the_one_to_give() -> None:
    problem = str(version_problem("kubernetes_version", "1.34.10+rke2r1"))
    assert "another distribution's build" in problem
    assert problem.endswith("kubernetes_version=1.34.10")


@pytest.mark.parametrize("value", ["10.0.0.5", None, 5, [5], [""], {"a": "b"}, True])
def test_a_list_that_is_none_is_named_with_its_key_and_the_right_form(value: object) -> None:
    problem = str(texts_problem("api_server_cert_sans", value, "10.0.0.5"))
    assert f"api_server_cert_sans: {value!r}" in problem
    assert "--data 'api_server_cert_sans=[\"10.0.0.5\"]'" in problem


@pytest.mark.parametrize("value", [[], ["10.0.0.5"], ("a", "b")])
def test_a_list_of_texts_passes(value: object) -> None:
    assert texts_problem("k", value, "x") is None


@pytest.mark.parametrize("value", ["", " ", None, 5])
def test_a_name_that_would_confirm_by_itself_is_none(value: object) -> None:
    assert f"cluster_name: {value!r}" in str(name_problem("cluster_name", value))
    assert name_problem("cluster_name", "meshstrap") is None


@pytest.mark.parametrize("value", [10, "10.244.0.0", "10.244.0.1/16", "fd00::/48", "pods"])
def test_a_network_that_is_none_is_named_with_its_key(value: object) -> None:
    assert f"pod_cidr: {value!r}" in str(network_problem("pod_cidr", value))


def test_good_versions_and_networks_pass() -> None:
    assert version_problem("k", "1.34.10") is None
    assert version_problem("k", "1.36.0-rc.1") is None
    assert network_problem("k", "10.244.0.0/16") is None
