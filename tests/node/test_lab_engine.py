"""We test the Docker engine that a lab starts where none runs: in namespaces of its own, as on another machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshstrap.lab.directory import locate

PRELUDE = """
exec 2>&1
mount --bind $SCRATCH/docker /var/lib/docker
mount -t tmpfs tmpfs /run
ip link set lo up
unset DOCKER_HOST
engines() { for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" != dockerd ] || echo dockerd; done; }
lab() { MESHSTRAP_LAB=$SCRATCH/$1 meshstrap lab $2 ${3-} ${4-} | sed "s/^/$1 $2: /"; }
"""


def on_another_machine(scratch: Path, checkout: Path, script: str) -> str:
    """Run a bash script where no Docker engine runs and nobody else's processes, network or firewall are."""
    (scratch / "docker").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SCRATCH": str(scratch),
        "MESHSTRAP_BUNDLE": str(locate(os.environ, checkout).bundle),
    }
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*namespaces, "bash", "-euo", "pipefail", "-c", PRELUDE + script],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path


def test_the_starter_stops_the_engine_once_nobody_else_uses_it(scratch: Path, checkout: Path) -> None:
    seen = on_another_machine(
        scratch,
        checkout,
        """
        lab a up --workers 0
        lab b up --workers 0
        lab a down
        echo "still: $(engines)"
        lab b down
        echo "still: $(engines)"
        lab a down
        echo "end: $(engines)"
        """,
    )
    assert seen.count("start the Docker engine") == 1
    assert "a down: the Docker engine stays" in seen
    assert seen.count("still: dockerd\n") == 2
    assert "a down: stop the Docker engine that this lab started" in seen
    assert "end: \n" in seen


def test_the_engine_leaves_firewall_forwarding_and_interfaces_alone(scratch: Path, checkout: Path) -> None:
    seen = on_another_machine(
        scratch,
        checkout,
        """
        firewall() { iptables-save | sed '/^#/d'; sysctl net.ipv4.ip_forward; }
        firewall >$SCRATCH/before
        ip -o link | cut -d: -f2 >>$SCRATCH/interfaces
        lab a up --workers 1
        firewall | diff $SCRATCH/before - && echo "same firewall while up"
        lab a down
        firewall | diff $SCRATCH/before - && echo "same firewall afterwards"
        ip -o link | cut -d: -f2 | diff $SCRATCH/interfaces - && echo "same interfaces"
        """,
    )
    assert "same firewall while up\n" in seen
    assert "same firewall afterwards\nsame interfaces\n" in seen


def test_an_engine_that_died_is_started_again_and_the_nodes_with_it(scratch: Path, checkout: Path) -> None:
    seen = on_another_machine(
        scratch,
        checkout,
        """
        lab a up --workers 0
        MESHSTRAP_LAB=$SCRATCH/a meshstrap lab ssh control-1 'touch' /var/lib/kubelet/kept
        kill -9 $(cat $SCRATCH/a/dockerd.pid)
        sleep 1
        lab a up
        MESHSTRAP_LAB=$SCRATCH/a meshstrap lab ssh control-1 ls /var/lib/kubelet/kept
        kill -9 $(cat $SCRATCH/a/dockerd.pid)
        sleep 1
        lab a down
        echo "end: $(engines)"
        for p in /proc/[0-9]*; do echo "process: $(cat $p/comm)"; done
        """,
    )
    assert "/var/lib/kubelet/kept" in seen
    assert "end: \n" in seen
    left = {line.removeprefix("process: ") for line in seen.splitlines() if line.startswith("process: ")}
    assert left <= {"bash", "cat"}, left


def test_a_pid_file_that_names_another_process_stops_nobody(scratch: Path, checkout: Path) -> None:
    seen = on_another_machine(
        scratch,
        checkout,
        """
        lab a up --workers 0
        cp $SCRATCH/a/dockerd.pid $SCRATCH/pid
        sleep 600 & other=$!
        echo $other >$SCRATCH/a/dockerd.pid
        lab a down
        kill -0 $other && echo "the other lives"
        kill -0 $(cat $SCRATCH/pid) && echo "the engine lives"
        """,
    )
    assert "the other lives" in seen and "the engine lives" in seen
