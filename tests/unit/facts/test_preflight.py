"""We test that what a machine printed becomes data, and that a machine that says little is read too."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from meshstrap.facts.preflight import fingerprint, parse, script

RECORDED = (Path(__file__).parent / "recorded" / "preflight.txt").read_text().splitlines()


def test_a_standing_control_plane_node_is_read() -> None:
    machine = parse(RECORDED, read_at=1795456894.5)
    assert (machine["uid"], machine["init"], machine["os"]) == (0, "systemd", "debian")
    assert machine["platform"] == "linux/amd64"
    assert machine["cgroup"] == 1
    assert "memory" in machine["controllers"]
    assert machine["memory"] == 24682416 * 1024
    assert machine["disks"]["/var/lib/kubelet"] == {
        "device": "/dev/vda",
        "size": 103081248 * 1024,
        "free": 61017824 * 1024,
    }
    assert machine["listening"][6443] == "kube-apiserver"
    assert machine["listening"][33575] == "?"
    assert machine["noexec"] == {"/tmp": "/tmp"}
    assert machine["proxies"] == {
        "/etc/environment": {
            "variables": ["http_proxy", "HTTPS_PROXY"],
            "no_proxy": "localhost,.example.org,172.29.182.0/24",
        },
        "systemd": {"variables": ["http_proxy"], "no_proxy": "*"},
    }
    assert machine["forward"] == "ACCEPT"
    assert machine["modules"] == {"overlay": True, "br_netfilter": True}
    assert machine["addresses"] == {"127.0.0.1/8": "lo", "10.244.0.1/24": "cni0", "172.29.182.10/24": "eth0"}
    assert machine["peers"] == {"172.29.182.11": "direct reachable", "172.29.182.99": "direct unreachable"}
    assert machine["runtimes"] == {"containerd": "ours", "kubelet": "ours"}
    assert (machine["confs"], machine["mark"]) == (["admin", "kubelet"], "done")
    assert machine["certificates"] == {"/etc/kubernetes/pki/apiserver.crt": 1826992587.0}
    assert machine["host_keys"] == ["SHA256:3yzxFNOqr8ShqD8xf4POHLMSj5H42WV0gDUwQaQ4SmQ (ssh-ed25519)"]
    assert machine["clock"] == pytest.approx(1795456894.149798)
    assert machine["read_at"] == 1795456894.5


def test_the_client_certificates_of_the_control_planes_kubeconfigs_are_read(tmp_path: Path) -> None:
    start = RECORDED.index("-----BEGIN CERTIFICATE-----")
    certificate = "\n".join(RECORDED[start : RECORDED.index("-----END CERTIFICATE-----") + 1]) + "\n"
    data = base64.b64encode(certificate.encode()).decode()
    text = f"users:\n- user:\n    client-certificate-data: {data}\n    client-key-data: c2VjcmV0\n"
    for name in ("admin", "controller-manager", "scheduler"):
        (tmp_path / f"{name}.conf").write_text(text)
    here = script([]).replace("/etc/kubernetes", str(tmp_path))
    said = subprocess.run(["sh"], input=here, text=True, capture_output=True).stdout
    found = parse(said.splitlines(), read_at=0.0)["certificates"]
    of_these = {path: expires for path, expires in found.items() if path.startswith(str(tmp_path))}
    assert of_these == {
        f"{tmp_path}/{name}.conf": 1826992587.0 for name in ("admin", "controller-manager", "scheduler")
    }
    assert "c2VjcmV0" not in said


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["disabled_plugins = []", "  SystemdCgroup = true"], {"disabled": [], "cgroup_driver": "systemd"}),
        (["disabled_plugins = ['cri']"], {"disabled": ["cri"], "cgroup_driver": "cgroupfs"}),
        (
            ["disabled_plugins = ['a', 'io.containerd.grpc.v1.cri']", "SystemdCgroup = false"],
            {"disabled": ["a", "io.containerd.grpc.v1.cri"], "cgroup_driver": "cgroupfs"},
        ),
    ],
)
def test_the_configuration_of_others_containerd_is_read(lines: list[str], expected: object) -> None:
    assert parse(["#containerd", *lines], read_at=0.0)["containerd"] == expected


def test_a_machine_that_says_nothing_is_read_as_one_that_has_nothing() -> None:
    machine = parse([], read_at=0.0)
    assert (machine["uid"], machine["cpus"], machine["cgroup"], machine["clock"]) == (-1, 0, 0, 0.0)
    assert machine["modules"] == {"overlay": False, "br_netfilter": False}
    assert machine["selinux"] == "disabled"
    assert machine["certificates"] == {}
    assert machine["mark"] is None


def test_what_is_no_public_key_has_no_fingerprint() -> None:
    assert fingerprint("") == ""
    assert fingerprint("ssh-ed25519 not-base64!") == ""


@pytest.mark.parametrize("peers", [[], ["192.0.2.1", "192.0.2.2"]])
def test_the_script_is_one_that_a_posix_shell_reads(peers: list[str]) -> None:
    read = subprocess.run(["sh", "-n"], input=script(peers), text=True, capture_output=True)
    assert (read.returncode, read.stderr) == (0, "")
