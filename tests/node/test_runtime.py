"""We test that a bare machine gets its runtime from the bundle, that nothing is done twice, and that what others set
up is left alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.lab.directory import Lab
from meshstrap.operations import containerd, kubeadm

Finished = subprocess.CompletedProcess[str]
RUNTIME = ("inventory.py", "deploys/runtime.py")
PATHS = {**containerd.PROGRAMS, **containerd.CNI_PLUGINS, **kubeadm.PROGRAMS}


def changed(run: Finished) -> list[str]:
    document: dict[str, Any] = json.loads(run.stdout)
    return [each["name"] for each in document["results"]["operations"] if each["success"]]


def planned(run: Finished) -> list[str]:
    return [each["name"] for each in json.loads(run.stdout)["plan"] if each["hosts_with_change"]]


@pytest.fixture(scope="module")
def dressed(dressed_node: Lab, run_pyinfra: Callable[..., Finished]) -> Lab:
    """The node with its runtime."""
    run = run_pyinfra(*RUNTIME, "-y", lab=dressed_node)
    assert run.returncode == 0, run.stdout + run.stderr
    return dressed_node


def test_the_programs_are_the_bundles(dressed: Lab, on_node: Callable[..., Finished]) -> None:
    lock = bundle_lock.read(dressed.bundle / "bundle.lock.yaml")
    said = on_node(dressed, "control-1", f"sha256sum {' '.join(PATHS.values())}")
    there = {path: digest for digest, path in (line.split() for line in said.stdout.splitlines())}
    wanted = {path: lock.program(name, "linux/amd64") for name, path in PATHS.items()}
    assert there == {path: program.sha256 for path, program in wanted.items() if program}


def test_the_second_run_changes_nothing(dressed: Lab, run_pyinfra: Callable[..., Finished]) -> None:
    assert changed(run_pyinfra(*RUNTIME, "-y", "--json", lab=dressed)) == []
    assert planned(run_pyinfra(*RUNTIME, "--dry", "--json", lab=dressed)) == []


def test_containerd_runs_and_the_kubelet_waits_for_kubeadm(dressed: Lab, on_node: Callable[..., Finished]) -> None:
    said = on_node(
        dressed, "control-1", "systemctl is-active containerd kubelet; systemctl is-enabled containerd kubelet"
    )
    assert said.stdout.split() == ["active", "inactive", "enabled", "enabled"]
    assert on_node(dressed, "control-1", "ctr version && runc --version").returncode == 0


def test_kernel_settings_hold_now_and_after_a_boot(dressed: Lab, on_node: Callable[..., Finished]) -> None:
    keys = "net.ipv4.ip_forward fs.inotify.max_user_instances"
    assert on_node(dressed, "control-1", f"sysctl -n {keys}").stdout.split() == ["1", "8192"]
    kept = on_node(dressed, "control-1", "cat /etc/sysctl.d/60-meshstrap.conf").stdout
    assert "fs.inotify.max_user_instances = 8192" in kept


def test_containerd_runs_without_the_proxies_that_systemd_has(dressed: Lab, on_node: Callable[..., Finished]) -> None:
    run = "systemctl restart containerd; tr '\\0' '\\n' </proc/$(systemctl show containerd -p MainPID --value)/environ"
    try:
        said = on_node(
            dressed, "control-1", f"systemctl set-environment http_proxy=http://192.0.2.9:3128; {run}"
        ).stdout
    finally:
        on_node(dressed, "control-1", "systemctl unset-environment http_proxy")
    assert "MESHSTRAP_STARTED_WITH=" in said and "3128" not in said


def test_what_was_changed_by_hand_is_put_back_and_no_more(
    dressed: Lab, run_pyinfra: Callable[..., Finished], on_node: Callable[..., Finished]
) -> None:
    pid = on_node(dressed, "control-1", "systemctl show containerd -p MainPID --value").stdout
    on_node(dressed, "control-1", "rm /usr/local/bin/kubectl; echo '# mine' >>/etc/containerd/config.toml")
    run = run_pyinfra(*RUNTIME, "-y", "--json", lab=dressed)
    assert changed(run) == ["Install kubelet, kubeadm and kubectl", "Configure and run containerd"]
    assert "kubectl: 0 MB to send" in run.stderr  # its blob is there under another name
    assert on_node(dressed, "control-1", "kubectl version --client").returncode == 0
    # containerd was started with the very file that was put back: there is nothing to restart it for.
    assert on_node(dressed, "control-1", "systemctl show containerd -p MainPID --value").stdout == pid


def test_a_restart_that_a_stopped_run_owes_is_made_up_for(
    dressed: Lab, run_pyinfra: Callable[..., Finished], on_node: Callable[..., Finished]
) -> None:
    script = """
        sed -i 's/^Environment=MESHSTRAP_STARTED_WITH=.*/Environment=MESHSTRAP_STARTED_WITH=before/' \
            /etc/systemd/system/containerd.service
        systemctl daemon-reload && systemctl restart containerd
    """
    assert on_node(dressed, "control-1", script).returncode == 0
    pid = on_node(dressed, "control-1", "systemctl show containerd -p MainPID --value").stdout
    assert changed(run_pyinfra(*RUNTIME, "-y", "--json", lab=dressed)) == ["Configure and run containerd"]
    assert on_node(dressed, "control-1", "systemctl show containerd -p MainPID --value").stdout != pid
    assert changed(run_pyinfra(*RUNTIME, "-y", "--json", lab=dressed)) == []


def test_an_altered_program_is_named_and_not_installed(
    dressed: Lab,
    run_pyinfra: Callable[..., Finished],
    on_node: Callable[..., Finished],
    copied_bundle: Path,
    alter: Callable[[str], Path],
) -> None:
    path = alter("portmap")
    on_node(dressed, "control-1", "rm /opt/cni/bin/portmap")
    run = run_pyinfra(*RUNTIME, "-y", "--data", f"bundle={copied_bundle}", lab=dressed)
    assert run.returncode == 1
    assert f"{path}: altered" in run.stdout + run.stderr
    assert on_node(dressed, "control-1", "ls /opt/cni/bin").stdout.split() == ["bridge", "host-local", "loopback"]
    assert run_pyinfra(*RUNTIME, "-y", lab=dressed).returncode == 0


def test_a_containerd_of_others_is_left_alone(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], on_node: Callable[..., Finished]
) -> None:
    unit = "/etc/systemd/system/containerd.service"
    set_up = f"printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >{unit} && systemctl daemon-reload"
    assert on_node(bare_node, "control-1", set_up).returncode == 0
    try:
        dry = planned(run_pyinfra(*RUNTIME, "--dry", "--json", lab=bare_node))
    finally:
        on_node(bare_node, "control-1", f"rm {unit}; systemctl daemon-reload")
    assert "Install kubelet, kubeadm and kubectl" in dry
    assert "Install containerd and runc" not in dry
    assert "Configure and run containerd" not in dry
