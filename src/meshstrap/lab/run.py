"""Run a program of this machine for the build, with its output in a log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshstrap.lab.directory import LabError


class BuildError(LabError):
    """The bundle cannot be built; the message says what is wrong and what to do."""


def run(
    command: Sequence[str], *, log: Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Run a program to its end.

    Args:
        command: Program and arguments.
        log: File that gets its output, both streams.
        cwd: Directory to run it in; the current one if None.
        environment: Variables set beside this process's own.

    Raises:
        BuildError: It failed: with its name, the log's path and the log's last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        try:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                check=False,
            ).returncode
        except FileNotFoundError:
            raise BuildError(f"{command[0]}: no such program on this machine") from None
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise BuildError(f"{' '.join(command[:3])} ... failed with exit code {code}; the whole log: {log}\n{tail}")
