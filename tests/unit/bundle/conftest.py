"""A bundle in a directory of the test's own, and the command that fills it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from meshstrap.bundle.add import Wishes, add
from meshstrap.bundle.directory import Bundle

Put = Callable[..., list[str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / "bundle")


@pytest.fixture
def said() -> list[str]:
    """What adding had to say."""
    return []


@pytest.fixture
def put(bundle: Bundle, said: list[str]) -> Put:
    """Add paths: put(path, replace=True) -> what could not be added."""

    def run(*paths: Path, **wishes: object) -> list[str]:
        return add(bundle, paths, Wishes(**wishes), said.append)  # type: ignore[arg-type]

    return run
