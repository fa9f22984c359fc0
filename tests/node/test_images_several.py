"""We test that several nodes get their images at the same time, with nothing left lying about on them, and that a
terminal shows how far each is.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

from .one_node import Proxy

Finished = subprocess.CompletedProcess[str]
LAYER = 8 << 20
INVENTORY = """
import runpy as _runpy
_groups = _runpy.run_path({shipped!r})
_held = {{"ssh_port": {port}, "ssh_strict_host_key_checking": "no"}}
control_plane = [(name, {{**data, "bundle": {bundle!r}, **_held}}) for name, data in _groups["control_plane"]]
workers = [(name, {{**data, "bundle": {bundle!r}}}) for name, data in _groups["workers"]]
leader = control_plane
lab = control_plane + workers
"""
DONE = "ctr -n k8s.io images check 2>/dev/null | grep -c 'tests/.* complete (.* true *$' || true"
# Whatever is larger than a script, is no runtime's, and came since the run began.
LEFT = (
    "find / /tmp /var /run /dev/shm -xdev -type f -size +64k -newer /run/began -not -path '/var/lib/containerd/*'"
    " -not -path '/var/log/*' -not -path '/run/log/*'"
)


@pytest.fixture(scope="module")
def two(
    make_lab: Callable[..., Lab], run_pyinfra: Callable[..., Finished], on_node: Callable[..., Finished]
) -> Callable[..., str]:
    """Two nodes with our containerd, in others' cluster: two(node, script) runs a script on one of them."""
    lab = make_lab(workers=1)
    run = run_pyinfra("inventory.py", "deploys/runtime.py", "-y", lab=lab)
    assert run.returncode == 0, run.stdout + run.stderr

    def sh(node: str, script: str) -> str:
        done = on_node(lab, node, script)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    sh.lab = lab  # type: ignore[attr-defined]
    for node in ("control-1", "worker-1"):
        sh(node, "mkdir -p /etc/kubernetes; touch /etc/kubernetes/kubelet.conf /run/began")
    return sh


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal's two ends, 200 columns wide."""
    ends = pty.openpty()
    termios.tcsetwinsize(ends[1], (50, 200))
    os.set_blocking(ends[0], False)
    yield ends
    for end in ends:
        os.close(end)


def heard(end: int, seconds: float) -> str:
    """Read what a terminal shows, for so long."""
    said, until = b"", time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([end], [], [], left)[0]:
            said += os.read(end, 65536)
    return said.decode(errors="replace")


def test_a_node_does_not_wait_for_another_and_a_terminal_shows_how_far_each_is(
    two: Callable[..., str], small_bundle: Callable[..., Path], terminal: tuple[int, int], tmp_path: Path
) -> None:
    lab: Lab = two.lab  # type: ignore[attr-defined]
    bundle = small_bundle(size=LAYER, one=["base", "one"], other=["base", "other"])
    proxy = Proxy(read(lab.nodes_file).node("control-1").ssh_port, 60_000 + 2 * LAYER + LAYER // 2)
    inventory = tmp_path / "inventory.py"
    shipped = str(Path(__file__).resolve().parents[2] / "inventory.py")
    inventory.write_text(INVENTORY.format(shipped=shipped, port=proxy.port, bundle=str(bundle)))
    environment = {name: value for name, value in os.environ.items() if name != "PYINFRA_PROGRESS"}
    environment |= {"MESHSTRAP_LAB": str(lab.directory), "MESHSTRAP_BUNDLE": str(lab.bundle)}
    pyinfra = [str(Path(sys.executable).parent / "pyinfra"), str(inventory), "deploys/images.py", "-y"]
    process = subprocess.Popen(
        pyinfra, env=environment, stdin=subprocess.DEVNULL, stdout=terminal[1], stderr=terminal[1]
    )
    said = ""
    try:
        until = time.monotonic() + 120
        while not proxy.held.is_set() or two("worker-1", DONE).strip() != "2":
            assert time.monotonic() < until and process.poll() is None, said
            said += heard(terminal[0], 0.5)
        # control-1 stands still in the middle of the second image.
        assert two("control-1", DONE).strip() == "1"
        assert two("control-1", LEFT) == "" and two("worker-1", LEFT) == ""
        said += heard(terminal[0], 2)
        proxy.go_on()
        until = time.monotonic() + 60
        while process.poll() is None:
            assert time.monotonic() < until, said
            said += heard(terminal[0], 0.5)
    finally:
        proxy.close()
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0, said
    assert two("control-1", DONE).strip() == "2"
    assert re.search(r"\d+ of 2\d MB, [\d.]+ MB/s, \d+ s left", said), said
