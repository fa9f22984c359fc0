"""Measure whole commands, and say what was measured: seconds of the clock, medians of rounds, ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A finished command: how long it took, from its start to its end, and what it printed."""

    seconds: float
    output: str


def run(command: Sequence[str | Path], *, accept: Collection[int] = (0,), env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end; one that fails ends the bench, with what it printed."""
    words = [str(word) for word in command]
    # Every contender in Python with its bytecode kept, as people have it, whatever this shell is set to.
    bytecode = {"PYTHONDONTWRITEBYTECODE": ""}
    with tempfile.TemporaryFile() as output:
        begin = time.monotonic()
        code = subprocess.call(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **bytecode, **(env or {})},
        )
        seconds = time.monotonic() - begin
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code not in accept:
        sys.exit(f"{text}\n{' '.join(words)}: exit code {code}")
    return Run(seconds, text)


def clocked(action: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def alternating(rounds: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return each contender's median seconds; they take turns, so that all see the same load of the machine."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, action in contenders.items():
            seconds[name].append(action())
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(*cells: object) -> None:
    """Print one line of a table in Markdown."""
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def head(*cells: object) -> None:
    """Print the first lines of a table."""
    print()
    row(*cells)
    row(*("---" for _ in cells))


def verdict(what: str, ratio: float, wanted: float, *, at_most: bool) -> None:
    """Print whether a figure is met. A bench says so and goes on: it is no gate."""
    met = ratio <= wanted if at_most else ratio >= wanted
    print(
        f"{'met' if met else 'NOT MET'}: {what}: {ratio:.2f} (wanted {'<=' if at_most else '>='} {wanted:g})",
        flush=True,
    )
