"""Steps of a build that are done once: each remembers what it was made from, and is skipped while that is unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from meshstrap.lab.run import BuildError


class StoppedError(BuildError):
    """A step was not begun because another one failed, which is the error worth reading."""


class Steps:
    """The build's memory. Several threads may do steps at a time.

    Args:
        directory: Where one file a step is kept.
        echo: Prints a line for people.
    """

    def __init__(self, directory: Path, echo: Callable[[str], None]) -> None:
        self._directory = directory
        self._echo = echo
        self._start = time.monotonic()
        self._stopped = threading.Event()
        self.done = 0
        directory.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, inputs: Any, work: Callable[[], tuple[Any, Iterable[Path]]]) -> Any:
        """Do a step, or take its result from before.

        Args:
            name: Unique name, shown to people.
            inputs: All that the result depends on, as JSON data.
            work: Does it; gives its result (JSON data) and the files that must stay for it to count.

        Returns:
            The result.

        Raises:
            BuildError: The step failed.
            StoppedError: Another step did, or the build was interrupted.
        """
        if self._stopped.is_set():
            raise StoppedError(f"{name}: not begun, because another step failed or the build was interrupted")
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        record = self._directory / f"{name.replace(' ', '-').replace('/', '_')}.json"
        before = _read(record)
        if before is not None and before["key"] == key and all(_stamp(Path(p)) == s for p, s in before["files"]):
            return before["result"]
        self._echo(f"{self._elapsed()}  {name} ...")
        begin = time.monotonic()
        try:
            result, files = work()
        except BaseException:
            self.stop()
            raise
        kept = [[str(path), _stamp(path)] for path in files]
        fresh = record.with_name(f".{record.name}.{os.getpid()}")
        fresh.write_text(json.dumps({"key": key, "result": result, "files": kept}))
        fresh.replace(record)
        self.done += 1
        self._echo(f"{self._elapsed()}  {name}: done in {time.monotonic() - begin:.1f} s")
        return result

    def stop(self) -> None:
        """Begin no further step."""
        self._stopped.set()

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._start)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"


def _read(record: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(record.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and {"key", "result", "files"} <= set(data) else None


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
