"""We test that one operator at a time is at work: the second stops and says why, a dead run's lock is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]

DEPLOY = """
import time
from pathlib import Path
from pyinfra.operations import python
from meshstrap.operations import site

def work():
    Path({marker!r}).touch()
    time.sleep({seconds})

site.lock(name="One operator at a time")
python.call(name="Work", function=work)
"""


@pytest.fixture
def deploy(tmp_path: Path) -> Callable[[float], tuple[Path, Path]]:
    """Write a deploy that takes the lock and then works for some seconds: (deploy, the file that tells it works)."""

    def write(seconds: float) -> tuple[Path, Path]:
        marker = tmp_path / f"working-{seconds}"
        path = tmp_path / f"work-{seconds}.py"
        path.write_text(DEPLOY.format(marker=str(marker), seconds=seconds))
        return path, marker

    return write


def start(lab: Lab, deploy: Path, marker: Path, checkout: Path) -> subprocess.Popen[str]:
    """Start a run and return when it works, the lock held."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "pyinfra"), "inventory.py", str(deploy), "-y"],
        cwd=checkout,
        env={**os.environ, "MESHSTRAP_LAB": str(lab.directory)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not marker.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


def test_a_second_operator_stops_and_is_told_who_holds_the_site(
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    deploy: Callable[[float], tuple[Path, Path]],
    checkout: Path,
) -> None:
    first = start(bare_node, *deploy(8), checkout)
    second_deploy, second_marker = deploy(0)
    second = run_pyinfra("inventory.py", str(second_deploy), "-y", lab=bare_node)
    output = second.stdout + second.stderr
    assert second.returncode == 1
    assert "another run is under way" in output
    assert f"(pid {first.pid}), started 2" in output
    assert not second_marker.exists()
    assert first.wait(timeout=30) == 0

    third = run_pyinfra("inventory.py", str(second_deploy), "-y", lab=bare_node)
    assert third.returncode == 0, third.stdout + third.stderr
    assert "Took over" not in third.stdout + third.stderr


def test_the_lock_of_a_dead_run_is_taken_over_aloud(
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    deploy: Callable[[float], tuple[Path, Path]],
    checkout: Path,
) -> None:
    first = start(bare_node, *deploy(60), checkout)
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=10)
    time.sleep(1)  # The node learns of the death by its closed connection.
    second = run_pyinfra("inventory.py", str(deploy(0)[0]), "-y", lab=bare_node)
    output = second.stdout + second.stderr
    assert second.returncode == 0, output
    assert "Took over the lock of a run that died" in output
    assert f"(pid {first.pid})" in output


def test_a_dry_run_takes_no_lock(
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    deploy: Callable[[float], tuple[Path, Path]],
    checkout: Path,
) -> None:
    first = start(bare_node, *deploy(5), checkout)
    dry = run_pyinfra("inventory.py", str(deploy(0)[0]), "--dry", lab=bare_node)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert first.wait(timeout=30) == 0


def test_without_rights_a_host_fails_with_what_to_do(
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    on_node: Callable[..., Finished],
    deploy: Callable[[float], tuple[Path, Path]],
) -> None:
    made = on_node(
        bare_node,
        "control-1",
        "id guest >/dev/null 2>&1 || useradd -m -s /bin/bash guest; mkdir -p ~guest/.ssh; "
        "cp ~/.ssh/authorized_keys ~guest/.ssh/; chown -R guest ~guest/.ssh",
    )
    assert made.returncode == 0, made.stderr
    path, marker = deploy(0)
    as_guest = ["--data", "ssh_user=guest", "--data", "_sudo=true"]
    run = run_pyinfra("inventory.py", str(path), "-y", *as_guest, lab=bare_node)
    output = run.stdout + run.stderr
    assert run.returncode == 1
    assert "sudo" in output
    assert "allow this user passwordless sudo" in output
    assert "Traceback" not in output
    assert not marker.exists()


def test_an_inventory_without_a_leader_is_refused(
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    deploy: Callable[[float], tuple[Path, Path]],
    checkout: Path,
    tmp_path: Path,
) -> None:
    inventory = tmp_path / "inventory.py"
    inventory.write_text(
        f"import runpy as _runpy\nmachines = _runpy.run_path({str(checkout / 'inventory.py')!r})['control_plane']\n"
    )
    run = run_pyinfra(inventory, str(deploy(0)[0]), "-y", lab=bare_node)
    assert run.returncode == 1
    assert "no host in a group `leader`; add `leader = control_plane[:1]`" in run.stdout + run.stderr
