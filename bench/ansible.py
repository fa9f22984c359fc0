"""Ansible as a peer: in an environment of its own outside the checkout, with every setting that makes it fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import Run, run

# The package `ansible` carries kubernetes.core. UV_PYTHON says with which Python; the newest Ansible wants a new one.
PACKAGES = ("ansible", "kubernetes")

# Pipelining saves a file transfer a task, ControlPersist the ssh connection; facts are not gathered.
SETTINGS = {
    "ANSIBLE_PIPELINING": "True",
    "ANSIBLE_FORKS": "20",
    "ANSIBLE_GATHERING": "explicit",
    "ANSIBLE_NOCOLOR": "True",
    "ANSIBLE_RETRY_FILES_ENABLED": "False",
    "ANSIBLE_LOCALHOST_WARNING": "False",
    "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
    "ANSIBLE_DEPRECATION_WARNINGS": "False",
}

Play = Mapping[str, Any]


class Ansible:
    """An installed Ansible, and the plays that it runs; `inventory` is an INI file, "localhost," without one."""

    def __init__(self, directory: Path, inventory: str = "localhost,", ssh: str = "") -> None:
        self._directory = directory
        self._inventory = inventory
        self._bin = _environment() / "bin"
        self._settings = SETTINGS | {"ANSIBLE_SSH_ARGS": ssh}

    def play(self, *plays: Play) -> Run:
        """Run plays as one playbook; a failed task ends the bench."""
        playbook = self._directory / "playbook.yaml"
        playbook.write_text(json.dumps(plays))
        return run([self._bin / "ansible-playbook", "-i", self._inventory, playbook], env=self._settings)

    def versions(self) -> str:
        """Name what is measured."""
        listed = json.loads(
            run([self._bin / "ansible-galaxy", "collection", "list", "kubernetes.core", "--format", "json"]).output
        )
        core = run([self._bin / "ansible", "--version"]).output.split("]")[0].removeprefix("ansible [")
        return f"ansible-{core}, kubernetes.core {next(iter(listed.values()))['kubernetes.core']['version']}"


def local(*tasks: Mapping[str, Any]) -> Play:
    """Make the play of tasks that reach the cluster from this machine, with the Python that has the client."""
    return {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": list(tasks),
    }


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory for playbooks and ssh control sockets."""
    with tempfile.TemporaryDirectory(prefix="meshstrap-bench-") as directory:
        yield Path(directory)


def _environment() -> Path:
    """Make the environment where it is not there yet; it stays for the next bench."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshstrap-bench"
    done = cache / "ansible.done"
    if not done.exists():
        print(f"install {' and '.join(PACKAGES)} into {cache}/ansible", file=sys.stderr)
        cache.mkdir(parents=True, exist_ok=True)
        # In that directory, so that uv takes this checkout's settings for nothing of it.
        subprocess.run(["uv", "venv", "--quiet", "--clear", "ansible"], cwd=cache, check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", "ansible", *PACKAGES], cwd=cache, check=True)
        done.touch()
    return cache / "ansible"
