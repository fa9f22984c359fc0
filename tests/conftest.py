"""Labs and ways into them, for the tests that need real nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from meshstrap.lab import access
from meshstrap.lab.directory import Lab, locate
from meshstrap.lab.record import read

# How long an example takes says nothing on a machine that others use too.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

Finished = subprocess.CompletedProcess[str]


def _environment(lab: Lab) -> dict[str, str]:
    return {**os.environ, "MESHSTRAP_LAB": str(lab.directory), "MESHSTRAP_BUNDLE": str(lab.bundle)}


def _meshstrap(lab: Lab, *arguments: str, timeout: float = 300) -> Finished:
    command = [str(BIN / "meshstrap"), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=_environment(lab), capture_output=True, text=True, timeout=timeout)


def _must(finished: Finished) -> Finished:
    assert finished.returncode == 0, (
        f"{finished.args} ended with {finished.returncode}:\n{finished.stdout}{finished.stderr}"
    )
    return finished


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The project's own checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def meshstrap() -> Callable[..., Finished]:
    """Run the meshstrap command for a lab: meshstrap(lab, "lab", "up") -> CompletedProcess."""
    return _meshstrap


@pytest.fixture(scope="session")
def on_node() -> Callable[..., Finished]:
    """Run a bash script on a node: on_node(lab, "control-1", "uname -r", timeout=30) -> CompletedProcess."""

    def run(lab: Lab, node: str, script: str, timeout: float = 30) -> Finished:
        command = access.ssh(lab, read(lab.nodes_file).node(node), ["bash", "-c", script])
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def sshd_of_session() -> str:
    """A shell script that sets $sshd to the process of the ssh session in which it runs: to kill it cuts the line."""
    return (
        "sshd=$$; until case $(cat /proc/$sshd/comm) in sshd*) ;; *) false; esac; "
        "do sshd=$(awk '$1 == \"PPid:\" { print $2 }' /proc/$sshd/status); done"
    )


@pytest.fixture(scope="session")
def run_pyinfra() -> Callable[..., Finished]:
    """Run pyinfra: run_pyinfra("inventory.py", "deploys/x.py", "-y", lab=lab) -> CompletedProcess.

    Paths are the checkout's; `lab` (default: the checkout's own) says whose nodes the shipped inventory.py names;
    `cwd`, `env` and `timeout` as in subprocess.run.
    """

    def run(
        inventory: str | Path,
        *arguments: str,
        lab: Lab | None = None,
        cwd: Path = CHECKOUT,
        env: dict[str, str] | None = None,
        timeout: float = 600,
    ) -> Finished:
        environment = {**_environment(lab or locate(os.environ, CHECKOUT)), "PYINFRA_PROGRESS": "off", **(env or {})}
        command = [str(BIN / "pyinfra"), str(inventory), *arguments]
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The checkout's own lab, up; it stays up, as whatever the tests leave on it."""
    lab = locate(os.environ, CHECKOUT)
    _must(_meshstrap(lab, "lab", "up"))
    return lab


@pytest.fixture(scope="session")
def make_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lab]]:
    """Make labs of their own beside the checkout's, with its bundle: make_lab(workers=1) -> Lab; None: not yet up.

    Each is removed after the session.
    """
    made = []

    def make(workers: int | None) -> Lab:
        lab = Lab(tmp_path_factory.mktemp("lab"), locate(os.environ, CHECKOUT).bundle)
        made.append(lab)
        if workers is not None:
            _must(_meshstrap(lab, "lab", "up", "--workers", str(workers)))
        return lab

    yield make
    for lab in reversed(made):  # The first one may have started the engine, which it stops when no other lab is left.
        _must(_meshstrap(lab, "lab", "down"))


@pytest.fixture(scope="session")
def bare_node(make_lab: Callable[..., Lab]) -> Lab:
    """A lab of one node, control-1, as bare as it boots."""
    return make_lab(workers=0)
