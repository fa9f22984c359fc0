"""We test that preflight finds nothing on a good machine, all that is wrong with a broken one at once, and changes
nothing on either.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.lab.directory import Lab
from meshstrap.operations.system import SYSCTLS

Finished = subprocess.CompletedProcess[str]
PREFLIGHT = ("inventory.py", "deploys/preflight.py")

# ssh is restarted, not reloaded: a reload returns before sshd listens again, and the next connection is reset.
BREAK = """
set -e
systemd-run --quiet --unit=squatter systemd-socket-activate -l 6443 /bin/cat
echo AllowTcpForwarding no >/etc/ssh/sshd_config.d/squatter.conf
systemctl restart ssh
cp /etc/resolv.conf /run/resolv.conf.was
echo nameserver 127.0.0.53 >/etc/resolv.conf
mkdir -p /etc/cni/net.d
printf '{"plugins": [{"type": "calico", "ipam": {"type": "calico-ipam"}}]}' >/etc/cni/net.d/10-calico.conflist
mount --bind /opt /opt
mount -o remount,bind,noexec /opt
until ss -Hltn | grep -q :6443; do sleep 0.1; done
"""
MEND = """
systemctl stop squatter
rm -f /etc/ssh/sshd_config.d/squatter.conf
systemctl restart ssh
cat /run/resolv.conf.was >/etc/resolv.conf
umount /opt
rm -f /etc/cni/net.d/10-calico.conflist
rmdir /etc/cni/net.d /etc/cni
"""

# All that a look must leave as it is: files, directories and links with the time of their last change, sysctls, kernel
# modules, units and what runs of them, network links, routes, and rules of iptables.
STATE = f"""
find /etc /usr /opt /srv /root /home /var/lib /lib /boot -xdev -printf '%p %y %l %C@\\n' | sort
grep -H . {" ".join(f"/proc/sys/{key.replace('.', '/')}" for key in SYSCTLS)}
ls /sys/module; cut -d' ' -f1 /proc/modules 2>/dev/null | sort; cat /proc/net/ip_tables_names
systemctl list-unit-files --no-legend --no-pager
systemctl list-units --no-legend --plain --all --type=service,socket,mount,timer | awk '{{ print $1, $2, $3 }}'
ip -o link; ip -4 route; iptables-save | grep '^-'
true
"""
# The node's own, in its network namespace: other sysctls are the whole machine's.
OTHER_FORWARDING = "f=/proc/sys/net/ipv4/ip_forward; echo $((1 - $(cat $f))) >$f"
USER = """
id typist >/dev/null 2>&1 || useradd -m -s /bin/bash typist
mkdir -p ~typist/.ssh && cp ~/.ssh/authorized_keys ~typist/.ssh/
chown -R typist ~typist/.ssh && chmod 700 ~typist/.ssh && chmod 600 ~typist/.ssh/authorized_keys
echo typist:secret-word | chpasswd
echo 'typist ALL=(ALL) ALL' >/etc/sudoers.d/typist
"""
UNREACHABLE_LEADER = """
import runpy as _runpy
_node, _data = _runpy.run_path({shipped!r})["control_plane"][0]
control_plane = leader = [("switched-off", {{**_data, "ssh_port": 9}})]
workers = [(_node, _data)]
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
    before = on_node(bare_node, "control-1", STATE).stdout.splitlines()
    assert len(before) > 1000
    run = run_pyinfra(*PREFLIGHT, "-y", lab=bare_node)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert "error [" not in output
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(bare_node.known_hosts)], capture_output=True, text=True, check=True
    )
    assert f"ssh host key {told.stdout.split()[1]}" in output
    after = on_node(bare_node, "control-1", STATE).stdout.splitlines()
    assert sorted(set(before) ^ set(after)) == []


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        ("ln -s /nowhere /etc/squatter", "rm /etc/squatter"),
        (OTHER_FORWARDING, OTHER_FORWARDING),
        ("systemctl mask squatter.service", "systemctl unmask squatter.service"),
        ("ip link add squatter type bridge", "ip link delete squatter"),
    ],
)
def test_what_is_compared_shows_each_kind_of_change(
    change: str, undo: str, bare_node: Lab, on_node: Callable[..., Finished]
) -> None:
    before = on_node(bare_node, "control-1", STATE).stdout
    try:
        changed = on_node(bare_node, "control-1", change)
        assert changed.returncode == 0, changed.stderr
        assert on_node(bare_node, "control-1", STATE).stdout != before
    finally:
        on_node(bare_node, "control-1", undo)


@pytest.mark.parametrize("how", ["-y", "--dry"])
def test_all_that_is_wrong_is_told_at_once(how: str, broken_node: Lab, run_pyinfra: Callable[..., Finished]) -> None:
    data = ("--data", "kubernetes_version=1.34", "--data", "ingress_node_port=abc")
    run = run_pyinfra(*PREFLIGHT, how, *data, lab=broken_node)
    output = run.stdout + run.stderr
    assert "error [ports] port 6443 is taken by" in output
    assert "error [resolvers] /etc/resolv.conf names 127.0.0.53" in output
    assert "error [cni] /etc/cni/net.d/10-calico.conflist names the plugin calico, calico-ipam, which is not" in output
    assert "error [noexec] /opt is mounted noexec: no CNI plugin would run" in output
    assert "error [forwarding] control-1: sshd forbids forwarding to" in output
    assert "error [data] kubernetes_version cannot be 1.34" in output
    assert "error [data] ingress_node_port cannot be 'abc'" in output
    assert "Traceback" not in output
    assert run.returncode == (1 if how == "-y" else 0), output


def test_versions_that_do_not_go_together_are_refused_unless_allowed(
    bare_node: Lab, run_pyinfra: Callable[..., Finished]
) -> None:
    old = ("--data", "istio_version=1.20.0")
    refused = run_pyinfra(*PREFLIGHT, "-y", *old, lab=bare_node)
    assert refused.returncode == 1
    assert "Istio 1.20 on Kubernetes 1.34 is not supported" in refused.stdout + refused.stderr
    allowed = run_pyinfra(*PREFLIGHT, "-y", *old, "--data", "allow_unsupported_versions=true", lab=bare_node)
    said = allowed.stdout + allowed.stderr
    assert "warning [versions]" in said and "error [versions]" not in said
    # Such an Istio is not in the lab's bundle.
    assert "error [images] Istio: the bundle's istioctl is 1.31.0, and istio_version is 1.20.0" in said


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


def test_the_site_is_judged_though_the_leader_is_out_of_reach(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], checkout: Path, tmp_path: Path
) -> None:
    inventory = tmp_path / "inventory.py"
    inventory.write_text(UNREACHABLE_LEADER.format(shipped=str(checkout / "inventory.py")))
    (tmp_path / "group_data").symlink_to(checkout / "group_data")
    run = run_pyinfra(inventory, "deploys/preflight.py", "-y", "--data", "istio_version=1.20.0", lab=bare_node)
    output = run.stdout + run.stderr
    assert run.returncode == 1
    assert "[switched-off] Could not connect" in output
    assert "error [versions] Istio 1.20 on Kubernetes 1.34 is not supported" in output


def test_a_password_that_nobody_can_type_is_a_finding_beside_the_others(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], on_node: Callable[..., Finished]
) -> None:
    assert on_node(bare_node, "control-1", USER).returncode == 0
    as_typist = ("--data", "ssh_user=typist", "--data", "_sudo=true")
    run = run_pyinfra(*PREFLIGHT, "-y", *as_typist, "--data", "istio_version=1.20.0", lab=bare_node)
    output = run.stdout + run.stderr
    assert run.returncode == 1
    assert "error [access] control-1: sudo needs a password" in output
    assert "error [versions]" in output
    assert "Traceback" not in output


def test_an_image_that_the_deploys_would_lack_is_named_with_its_object(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], copied_bundle: Path
) -> None:
    """proxyv2 is not in the bundle: nobody says so until the gateway does not start."""
    path = copied_bundle / "bundle.lock.yaml"
    lock = bundle_lock.read(path)
    kept = tuple(image for image in lock.images if "proxyv2" not in image.reference and "canary" not in image.reference)
    bundle_lock.write(replace(lock, images=kept), path)
    run = run_pyinfra(*PREFLIGHT, "-y", "--data", f"bundle={copied_bundle}", lab=bare_node)
    said = run.stdout + run.stderr
    assert run.returncode == 1
    assert "error [images] Deployment/istio-system/istio-ingressgateway in istioctl manifest generate" in said
    assert (
        f"asks for image docker.io/istio/proxyv2:1.31.0, which {copied_bundle}/bundle.lock.yaml does not hold" in said
    )
    assert "warning [images] Deployment/canary/appv1" in said, "the site stands without a scenario"


# What pam_faillock counts is what locks an account, by default after three.
FAILLOCK = """
cat >/etc/pam.d/sudo <<'END'
auth required pam_faillock.so preauth
auth [success=1 default=bad] pam_unix.so
auth [default=die] pam_faillock.so authfail
auth sufficient pam_faillock.so authsucc
account required pam_unix.so
session required pam_permit.so
END
mount -t tmpfs -o noexec tmpfs /tmp
"""


def test_a_wrong_password_locks_nobody_out_and_the_right_one_needs_no_program_in_tmp(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], on_node: Callable[..., Finished]
) -> None:
    kept = "cp -n /etc/pam.d/sudo /root/sudo.was"
    assert on_node(bare_node, "control-1", f"{USER}\n{kept}\n{FAILLOCK}").returncode == 0
    as_typist = ("--data", "ssh_user=typist", "--data", "_sudo=true", "--data")
    try:
        for deploy, how in (("deploys/cluster.py", "--dry"), ("deploys/cluster.py", "-y")):
            run = run_pyinfra("inventory.py", deploy, how, *as_typist, "_sudo_password=wrong", lab=bare_node)
            output = run.stdout + run.stderr
            assert "control-1: sudo refuses the password, which was tried once" in output
            assert "Traceback" not in output
            counted = on_node(bare_node, "control-1", "faillock --user typist")
            failures = [line for line in counted.stdout.splitlines() if line.rstrip().endswith("V")]
            assert len(failures) <= 2, "its answer, and the one that it does not get"
            on_node(bare_node, "control-1", "faillock --user typist --reset")
        run = run_pyinfra(*PREFLIGHT, "-y", *as_typist, "_sudo_password=secret-word", lab=bare_node)
        output = run.stdout + run.stderr
        assert run.returncode == 0, output
        assert "warning [noexec] /tmp is mounted noexec" in output
        left = on_node(bare_node, "control-1", "ls -a /tmp ~typist | grep askpass").stdout
        assert left == ""
    finally:
        on_node(bare_node, "control-1", "umount /tmp; cp /root/sudo.was /etc/pam.d/sudo; rm /root/sudo.was")
