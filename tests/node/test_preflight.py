"""We test that preflight finds nothing on a good machine, all that is wrong with a broken one at once, and changes
nothing on either.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]
PREFLIGHT = ("inventory.py", "deploys/preflight.py")

BREAK = """
set -e
systemd-run --quiet --unit=squatter systemd-socket-activate -l 6443 /bin/cat
cp /etc/resolv.conf /run/resolv.conf.was
echo nameserver 127.0.0.53 >/etc/resolv.conf
until ss -Hltn | grep -q :6443; do sleep 0.1; done
"""
MEND = """
systemctl stop squatter
cat /run/resolv.conf.was >/etc/resolv.conf
"""


@pytest.fixture
def broken_node(bare_node: Lab, on_node: Callable[..., Finished]) -> Iterator[Lab]:
    """The bare node with a taken port and an unusable resolver, mended afterwards."""
    broken = on_node(bare_node, "control-1", BREAK)
    try:
        assert broken.returncode == 0, broken.stderr
        yield bare_node
    finally:
        on_node(bare_node, "control-1", MEND)


def test_a_good_machine_passes_untouched_and_its_host_keys_are_told(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], on_node: Callable[..., Finished]
) -> None:
    assert on_node(bare_node, "control-1", "touch /run/before").returncode == 0
    run = run_pyinfra(*PREFLIGHT, "-y", lab=bare_node)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert "error [" not in output
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(bare_node.known_hosts)], capture_output=True, text=True, check=True
    )
    assert f"ssh host key {told.stdout.split()[1]}" in output
    touched = on_node(bare_node, "control-1", "find /etc /usr /opt /var/lib /home -xdev -newer /run/before -type f")
    assert touched.stdout == ""


@pytest.mark.parametrize("how", ["-y", "--dry"])
def test_all_that_is_wrong_is_told_at_once(how: str, broken_node: Lab, run_pyinfra: Callable[..., Finished]) -> None:
    run = run_pyinfra(*PREFLIGHT, how, lab=broken_node)
    output = run.stdout + run.stderr
    assert "error [ports] port 6443 is taken by" in output
    assert "error [resolvers] /etc/resolv.conf names 127.0.0.53" in output
    assert run.returncode == (1 if how == "-y" else 0), output


def test_versions_that_do_not_go_together_are_refused_unless_allowed(
    bare_node: Lab, run_pyinfra: Callable[..., Finished]
) -> None:
    old = ("--data", "istio_version=1.20.0")
    refused = run_pyinfra(*PREFLIGHT, "-y", *old, lab=bare_node)
    assert refused.returncode == 1
    assert "Istio 1.20 on Kubernetes 1.34 is not supported" in refused.stdout + refused.stderr
    allowed = run_pyinfra(*PREFLIGHT, "-y", *old, "--data", "allow_unsupported_versions=true", lab=bare_node)
    assert allowed.returncode == 0, allowed.stderr


def test_a_missing_bundle_is_told_with_its_file(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], tmp_path: Path
) -> None:
    run = run_pyinfra(*PREFLIGHT, "-y", "--data", f"bundle={tmp_path}", lab=bare_node)
    assert run.returncode == 1
    assert f"{tmp_path}/bundle.lock.yaml: no such file" in run.stdout + run.stderr


def test_an_altered_file_of_the_bundle_is_told(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], copied_bundle: Path, alter: Callable[[str], Path]
) -> None:
    path = alter("registry.k8s.io/coredns/coredns:v1.12.1")
    run = run_pyinfra(*PREFLIGHT, "-y", "--data", f"bundle={copied_bundle}", lab=bare_node)
    assert run.returncode == 1
    assert f"{path}: altered" in run.stdout + run.stderr
