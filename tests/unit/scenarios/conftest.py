"""What the lab's mesh showed (Istio 1.31.0, two nodes), as proofs wrote it, log lines cut; and time that leaps."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from meshstrap.scenarios.site import Clock

Recorded = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    """Read a scenario's recorded observation, a fresh copy each time: recorded("fault") -> observation."""

    def read(scenario: str) -> dict[str, Any]:
        path = Path(__file__).parent / "recorded" / f"{scenario}-1.31.json.gz"
        observation: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        return observation

    return read


class Leap(Clock):
    """A clock that leaps over every pause."""

    time = 0.0

    @override
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    @override
    def seconds(self) -> float:
        return self.time

    @override
    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    """Give a clock with which deadlines pass without waiting."""
    return Leap()
