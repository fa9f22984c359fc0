"""We test that what systemd and the kernel say becomes data."""

from __future__ import annotations

import pytest

from meshstrap.facts.system import Files, parse_kernel, parse_services, platform

SHOWN = """\
service=containerd
MainPID=568
NeedDaemonReload=no
LoadState=loaded
ActiveState=active
FragmentPath=/etc/systemd/system/containerd.service
UnitFileState=enabled
ours=yes
MESHSTRAP_STARTED_WITH=9ad1
service=kubelet
MainPID=0
NeedDaemonReload=yes
LoadState=loaded
ActiveState=inactive
FragmentPath=/lib/systemd/system/kubelet.service
UnitFileState=disabled
service=none
MainPID=0
LoadState=not-found
ActiveState=inactive
"""


def test_services_are_read() -> None:
    services = parse_services(SHOWN.splitlines())
    assert services["containerd"] == {
        "unit": "/etc/systemd/system/containerd.service",
        "ours": True,
        "enabled": True,
        "active": True,
        "reload": False,
        "started_with": "9ad1",
    }
    assert services["kubelet"]["unit"] == "/lib/systemd/system/kubelet.service"
    assert not services["kubelet"]["ours"]
    assert services["kubelet"]["reload"]
    assert services["none"]["unit"] is None
    assert services["none"]["started_with"] is None


def test_a_module_may_be_there_loadable_both_or_neither() -> None:
    said = [
        "module overlay there",
        "module overlay loadable",
        "module br_netfilter loadable",
        "sysctl net.ipv4.ip_forward 0",
        "sysctl fs.inotify.max_user_instances 128",
    ]
    assert parse_kernel(said) == {
        "modules": {
            "overlay": {"there": True, "loadable": True},
            "br_netfilter": {"there": False, "loadable": True},
        },
        "sysctls": {"net.ipv4.ip_forward": "0", "fs.inotify.max_user_instances": "128"},
    }


def test_files_are_read_with_spaces_in_their_names() -> None:
    said = [f"755 {'a' * 64} /usr/local/bin/kubeadm", f"600 {'b' * 64} /etc/my file"]
    assert Files().process(said) == {
        "/usr/local/bin/kubeadm": {"sha256": "a" * 64, "mode": "755"},
        "/etc/my file": {"sha256": "b" * 64, "mode": "600"},
    }


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64\n", "linux/amd64"), ("aarch64", "linux/arm64"), ("riscv64", "linux/riscv64")]
)
def test_platforms_have_the_names_that_bundles_use(machine: str, name: str) -> None:
    assert platform(machine) == name
