"""We test that the fact's one answer is taken apart, and that the script finds the runtime that the kubelet uses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from meshstrap.facts import runtime
from meshstrap.facts.runtime import Held, Node, PodImages, Runtime

SAID = """\
#endpoint /run/containerd/containerd.sock
#kind containerd
#eviction
imagefs.available "12%"
nodefs.available 1Gi
#runtime
#installed yes
#version v2.4.2
#images
#check
#content
#snapshots
#containers
#disk
/var/lib/containerd /dev/vda 264212084 73284956
/var/lib/kubelet /dev/vda 264212084 73284956
"""


def test_runtime_disk_and_thresholds_are_one_answer() -> None:
    said = Runtime().process(SAID.splitlines())
    assert (said["kind"], said["endpoint"], said["version"]) == (
        "containerd",
        "/run/containerd/containerd.sock",
        "v2.4.2",
    )
    assert said["disk"] == {
        "root": "/var/lib/containerd",
        "size": 264212084 * 1024,
        "free": 73284956 * 1024,
        "nodefs": True,
    }
    assert said["eviction"] == {"imagefs.available": "12%", "nodefs.available": "1Gi"}


def test_a_kubelet_on_another_disk_and_one_that_is_not_configured_yet() -> None:
    lines = SAID.replace("/var/lib/kubelet /dev/vda", "/var/lib/kubelet /dev/vdb").splitlines()
    without = [line for line in lines if "available" not in line and line != "#eviction"]
    said = Runtime().process(without)
    assert said["disk"] is not None and not said["disk"]["nodefs"]
    assert said["eviction"] is None


def test_half_an_answer_is_refused_and_ends_no_run_of_others() -> None:
    with pytest.raises(FactProcessError, match="cannot be read"):
        Runtime().process([])
    with pytest.raises(FactProcessError, match="cannot be read"):
        Node().process(["##meshstrap machine x86_64"])


PAUSE = "registry.k8s.io/pause:3.10.1"


@pytest.mark.parametrize(("kubeadm", "required"), [("v1.34.10", [PAUSE]), ("v1.33.1", [])])
def test_the_nodes_answer_has_a_part_for_each_question(kubeadm: str, required: list[str]) -> None:
    said = [
        "##meshstrap version 1.34.10", "##meshstrap machine aarch64", "##meshstrap cluster", "##meshstrap runtime",
        *SAID.splitlines(), "##meshstrap member", "hostname control-1", f"kubeadm {kubeadm}", "##meshstrap required",
        PAUSE,
    ]  # fmt: skip
    node = Node().process(said)
    assert (node["platform"], node["member"]["hostname"]) == ("linux/arm64", "control-1")
    # What a kubeadm of another version names is not what this one needs.
    assert (node["required"], node["takes_pods"]) == (required, False)
    assert node["runtime"]["version"] == "v2.4.2"


def test_the_whole_script_runs_and_is_read() -> None:
    script = Node().command("1.34.10", cluster=False)
    ran = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    node = Node().process(ran.stdout.splitlines())
    assert node["platform"].startswith("linux/") and node["member"]["hostname"]
    assert node["runtime"]["disk"] is not None


def test_the_cheap_script_runs_and_is_read() -> None:
    script = Held().command([(PAUSE, "sha256:1")], cluster=True)
    ran = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    held = Held().process(ran.stdout.splitlines())
    assert held["platform"].startswith("linux/") and held["member"]["hostname"]
    assert not held["takes_pods"]
    with pytest.raises(FactProcessError, match="cannot be read"):
        Held().process(["##meshstrap machine x86_64"])
    nameless = [line for line in ran.stdout.splitlines() if not line.startswith("##meshstrap machine")]
    with pytest.raises(FactProcessError, match="is no platform"):
        Held().process(["##meshstrap machine ?", *nameless])


def test_pods_images_are_named_once() -> None:
    assert PodImages().process(["#asked", "b:1", "a:1", "", "b:1"]) == ["a:1", "b:1"]


def test_a_node_that_cannot_ask_its_cluster_does_not_say_that_no_pod_names_an_image() -> None:
    assert PodImages().process(["#asked", ""]) == []
    assert PodImages().process([]) is None


@pytest.mark.parametrize(
    ("flags", "config", "kubelet", "endpoint", "kind"),
    [
        (None, None, None, "/run/containerd/containerd.sock", "containerd"),
        ("--container-runtime-endpoint=unix:///var/run/cri-dockerd.sock", "", "v1.30.1", "/var/run/cri-dockerd.sock",
         "docker"),
        ('KUBELET_KUBEADM_ARGS="--node-ip=1.2.3.4 --container-runtime-endpoint=unix:///run/x/containerd.sock"', "",
         "v1.34.1", "/run/x/containerd.sock", "containerd"),
        ('KUBELET_KUBEADM_ARGS="--container-runtime-endpoint /run/crio/crio.sock --v 2"', "", "v1.30.1",
         "/run/crio/crio.sock", "cri-o"),
        ("--network-plugin=cni", "a: b", "v1.23.17", "/var/run/dockershim.sock", "docker"),
        ("--container-runtime=remote", "a: b", "v1.23.17", "/run/containerd/containerd.sock", "containerd"),
        ("--node-ip=1.2.3.4", "a: b", "v1.24.1", "/run/containerd/containerd.sock", "containerd"),
        ("", 'containerRuntimeEndpoint: "unix:///var/run/crio/crio.sock"', "v1.34.1", "/var/run/crio/crio.sock",
         "cri-o"),
        ("--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
         "containerRuntimeEndpoint: unix:///var/run/crio/crio.sock", "v1.34.1", "/run/containerd/containerd.sock",
         "containerd"),
        ("--container-runtime-endpoint=unix:///run/frakti.sock", "", "v1.34.1", "/run/frakti.sock", "unknown"),
    ],
)  # fmt: skip
def test_the_runtime_is_the_one_that_the_kubelets_own_configuration_names(
    tmp_path: Path, flags: str | None, config: str | None, kubelet: str | None, endpoint: str, kind: str
) -> None:
    said = ask(tmp_path, flags, config, kubelet)
    assert said[:2] == [f"#endpoint {endpoint}", f"#kind {kind}"]


@pytest.mark.parametrize(
    ("flags", "config", "thresholds"),
    [
        ("", "evictionHard:\n  imagefs.available: 0%\n  memory.available: 100Mi\nother: 1\n",
         ["imagefs.available 0%", "memory.available 100Mi"]),
        ("", 'evictionSoft:\n  imagefs.available: 20%\nevictionHard:\n  nodefs.available: "5%"\n',
         ['nodefs.available "5%"']),
        ("--eviction-hard=imagefs.available<3%,memory.available<1Gi", "evictionHard:\n  imagefs.available: 9%\n",
         ["imagefs.available 3%", "memory.available 1Gi"]),
        ("", "other: 1\n", []),
    ],
)  # fmt: skip
def test_the_thresholds_are_the_kubelets(tmp_path: Path, flags: str, config: str, thresholds: list[str]) -> None:
    said = ask(tmp_path, flags, config, "v1.34.1")
    assert said[said.index("#eviction") + 1 : said.index("#runtime")] == thresholds


def ask(directory: Path, flags: str | None, config: str | None, kubelet: str | None) -> list[str]:
    """Run the real script against a kubelet's files in a directory, with no runtime there to answer."""
    files, programs = directory / "kubelet", directory / "bin"
    files.mkdir()
    programs.mkdir()
    if flags is not None:
        (files / "kubeadm-flags.env").write_text(flags)
    if config is not None:
        (files / "config.yaml").write_text(config)
    for program in ("docker", "ctr", "systemctl"):
        (programs / program).write_text("#!/bin/sh\nexit 1\n")
    if kubelet is not None:
        (programs / "kubelet").write_text(f"#!/bin/sh\necho Kubernetes {kubelet}\n")
    for made in programs.iterdir():
        made.chmod(0o755)
    script = runtime.script().replace(runtime.KUBELET, str(files))
    for path in ("/etc/default/kubelet", "/etc/sysconfig/kubelet"):
        script = script.replace(path, str(files / "none"))
    ran = subprocess.run(
        ["sh", "-c", script], env={"PATH": f"{programs}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=30
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()
