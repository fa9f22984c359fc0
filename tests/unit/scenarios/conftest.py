"""What the lab's mesh showed (Istio 1.31.0, two nodes), as proofs wrote it, log lines cut; lost lines; leaping time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typing_extensions import override

from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.scenarios.site import Clock

Recorded = Callable[[str], dict[str, Any]]
Lose = Callable[..., dict[str, Any]]

LOGS = ("log", "reviews_log", "behind")


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    """Read a scenario's recorded observation, a fresh copy each time: recorded("fault") -> observation."""

    def read(scenario: str) -> dict[str, Any]:
        path = Path(__file__).parent / "recorded" / f"{scenario}-1.31.json.gz"
        observation: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        return observation

    return read


def _logs(seen: Any) -> Iterator[dict[str, Any]]:
    """Find all that is a log by mark, wherever it is: of one role or of several, of control and rounds."""
    if isinstance(seen, list):
        for each in seen:
            yield from _logs(each)
    if not isinstance(seen, dict):
        return
    for key, value in seen.items():
        if key not in LOGS:
            yield from _logs(value)
        elif any(isinstance(each, dict) and "code" not in each for each in value.values()):
            yield from value.values()
        else:
            yield value


@pytest.fixture(scope="session")
def lose() -> Lose:
    """Lose log lines of an observation: lose(observation, Random(7), share, unless=honest) -> the same with fewer.

    Those marks are spared of which it has more lines than `unless`: without the line too many nothing was there.
    """

    def left(
        seen: dict[str, Any], random: Random, share: float, unless: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        honest = list(_logs(unless)) if unless else []
        for index, log in enumerate(_logs(seen)):
            for mark, lines in list(log.items()):
                many = lines if isinstance(lines, list) else [lines]
                if index < len(honest) and len(many) > len(honest[index].get(mark, [])):
                    continue
                kept = [line for line in many if random.random() >= share]
                if not kept:
                    del log[mark]
                elif isinstance(lines, list):
                    log[mark] = kept
        return seen

    return left


@pytest.fixture
def never_passes(recorded: Recorded, lose: Lose) -> Callable[..., None]:
    """Lose more and more lines of a forged observation: never_passes("fault", judge, forged); it must not pass once."""

    def check(scenario: str, judge: Callable[[dict[str, Any]], Verdict], forged: dict[str, Any]) -> None:
        for seed in range(5):
            verdict = judge(lose(forged, Random(seed), 0.2, unless=recorded(scenario)))
            assert verdict.outcome is not Outcome.PASS, verdict

    return check


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
