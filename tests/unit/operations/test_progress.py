"""We test that the line beside pyinfra's spinner says what is waited for, fits the terminal, and goes away again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinfra import progress as spinner

from meshstrap.operations import progress


def test_one_host_needs_no_name() -> None:
    assert progress.fitted({"control-1": "3 of 8 ready"}, 80) == "3 of 8 ready"


def test_several_hosts_are_named_in_order() -> None:
    assert progress.fitted({"b": "2 MB", "a": "1 MB"}, 80) == "a: 1 MB; b: 2 MB"


def test_where_there_is_no_room_nothing_is_said() -> None:
    assert progress.fitted({"a": "1 of 2 ready"}, 10) == ""


@given(st.dictionaries(st.text(min_size=1, max_size=30), st.text(max_size=300), max_size=8), st.integers(-50, 300))
def test_it_never_takes_more_than_its_place(texts: dict[str, str], width: int) -> None:
    assert len(progress.fitted(texts, width)) <= max(width, 0)


def test_pyinfras_spinner_still_has_the_place_that_we_use() -> None:
    # Its line is the first of these characters, turned in place, and the hosts' names.
    assert sorted(spinner.WAIT_CHARS) == ["-", "/", "\\", "|"]
    assert isinstance(spinner.TERMINAL_WIDTH, int)


def test_a_wait_says_again_and_again_what_it_waits_for_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SAY_SECONDS", 0.02)
    said: list[str] = []
    host: Any = SimpleNamespace(log=said.append)
    host.connector = SimpleNamespace(host=host)
    left = iter(range(9, 0, -1))
    with progress.waiting(cast(Any, host), lambda: f"{next(left)} pods"):
        while len(said) < 3:
            gevent.sleep(0.01)
    assert [line.partition("waiting for ")[2] for line in said[:3]] == ["9 pods", "8 pods", "7 pods"]
    lines = len(said)
    gevent.sleep(0.1)
    assert len(said) == lines
