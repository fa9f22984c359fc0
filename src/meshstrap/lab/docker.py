"""The Docker engine: found, started where nobody else starts it, and spoken to through its own client."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshstrap.lab.directory import Lab, LabError

# Every container and network of a lab carries this label with the lab's name.
LABEL = "meshstrap.lab"

# Ours leaves the machine's firewall, forwarding and bridges alone: a lab needs none of them.
ENGINE_OPTIONS = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")

# Two labs that find no engine must not both start one.
ENGINE_LOCK = Path("/run/meshstrap-engine.lock")


class DockerError(LabError):
    """The Docker engine refused; the text is its own."""


class Docker:
    """Docker's command-line client, bound to the program that speaks to this engine."""

    def __init__(self, program: str) -> None:
        self.program = program

    def __call__(self, *arguments: str, stdin: bytes | Path | None = None, timeout: float = 120) -> str:
        """Run one docker command and return what it printed.

        Args:
            arguments: the command's arguments.
            stdin: what it reads: bytes, or a file.
            timeout: seconds until it is given up.

        Raises:
            DockerError: it failed, or did not end in time.

        """
        command = [self.program, *arguments]
        try:
            if isinstance(stdin, Path):
                with stdin.open("rb") as source:
                    done = subprocess.run(command, stdin=source, capture_output=True, timeout=timeout)
            else:
                done = subprocess.run(command, input=stdin or b"", capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise DockerError(f"docker {arguments[0]} did not end within {timeout:.0f} s") from None
        if done.returncode:
            raise DockerError(f"docker {' '.join(arguments[:2])}: {done.stderr.decode().strip()}")
        return done.stdout.decode()


def answering() -> Docker | None:
    """Return the client of the engine that runs, if one does.

    A machine may have several clients; a newer one may refuse to speak to an older engine, so each is asked.
    """
    for program in dict.fromkeys(filter(None, (shutil.which("docker"), "/usr/bin/docker"))):
        if not Path(program).exists():
            continue
        docker = Docker(program)
        try:
            docker("version", "--format", "{{.Server.Version}}", timeout=20)
        except DockerError:
            continue
        return docker
    return None


def ensure(lab: Lab, say: Callable[[str], None]) -> Docker:
    """Return a client for the engine; an engine that runs is used as it is, else one is started.

    Args:
        lab: whose directory gets the new engine's pid file and log.
        say: told when an engine is started.

    Raises:
        LabError: there is no engine and it is not ours to start one.

    """
    docker = answering()
    if docker:
        return docker
    if not shutil.which("docker"):
        raise LabError("Docker is not installed: run `make setup` as root")
    if os.environ.get("DOCKER_HOST"):
        raise LabError(f"no Docker engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}")
    if Path("/run/systemd/system").is_dir():
        raise LabError("the Docker engine does not answer: run `systemctl start docker` (or join the group docker)")
    if os.geteuid():
        raise LabError("no Docker engine answers, and only root can start one: run this as root")
    with _engine_lock():
        docker = answering()  # another lab may have started it while we waited
        if not docker:
            say("start the Docker engine (no service manager here)")
            docker = _start(lab)
    return docker


def stop(lab: Lab, docker: Docker, say: Callable[[str], None]) -> None:
    """Stop the Docker engine if this lab started it and nobody else has a container on it.

    Args:
        lab: whose pid file decides.
        docker: client of the engine.
        say: told what is done, or why it is not.

    Raises:
        LabError: the engine did not end.

    """
    with _engine_lock():
        pid = own_engine(lab)
        if pid is None:
            return
        others = docker("ps", "--format", "{{.Names}}").split()
        if others:
            say(f"the Docker engine stays: {', '.join(others)} run on it; `meshstrap lab down` again stops it later")
            return
        say("stop the Docker engine that this lab started")
        os.kill(pid, signal.SIGTERM)
        _wait_for_end(pid, seconds=60)
        lab.engine_pid.unlink(missing_ok=True)


def own_engine(lab: Lab) -> int | None:
    """Return the process id of the engine that this lab started, if it still runs.

    The pid file alone is not believed: that process must be a dockerd that was started with this very pid file.
    """
    try:
        pid = int(lab.engine_pid.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (OSError, ValueError):
        return None
    ours = Path(command[0]).name == "dockerd" and f"--pidfile={lab.engine_pid}" in command
    return pid if ours else None


@contextmanager
def _engine_lock() -> Iterator[None]:
    if os.geteuid():  # who is not root neither starts nor stops an engine
        yield
        return
    with ENGINE_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(lab: Lab) -> Docker:
    if own_engine(lab) is None:
        lab.engine_pid.unlink(missing_ok=True)  # left by one that died; dockerd would take its number for alive
        with lab.engine_log.open("ab") as log:
            process = subprocess.Popen(
                ["dockerd", f"--pidfile={lab.engine_pid}", *ENGINE_OPTIONS],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, not for the engine
                close_fds=True,
                cwd="/",
            )
    else:
        process = None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        docker = answering()
        if docker:
            return docker
        if process and process.poll() is not None:
            break
        time.sleep(0.1)
    tail = "\n".join(lab.engine_log.read_text(errors="replace").splitlines()[-5:])
    raise LabError(f"the Docker engine did not start; {lab.engine_log} ends with:\n{tail}")


def _wait_for_end(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise LabError(f"the Docker engine (process {pid}) did not end within {seconds:.0f} s")
