"""What the lab's mesh showed (Istio 1.31.0, two nodes): observations as proofs wrote them, their log lines cut."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Recorded = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    """Read a scenario's recorded observation, a fresh copy each time: recorded("fault") -> observation."""

    def read(scenario: str) -> dict[str, Any]:
        path = Path(__file__).parent / "recorded" / f"{scenario}-1.31.json.gz"
        observation: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        return observation

    return read
