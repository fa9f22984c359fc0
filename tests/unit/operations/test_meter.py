"""We test that a transfer shows bytes, rate and time left, on a terminal and in a log."""

from __future__ import annotations

import io
from typing import Any

import gevent
import pytest

from meshstrap.operations import meter, progress
from meshstrap.operations.meter import Meter


class Host:
    """A host that keeps what it is told to log."""

    name = "worker-1"

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, text: str) -> None:
        self.said.append(text)


def test_a_line_has_bytes_rate_and_time_left() -> None:
    now = 0.0
    transfer = Meter(200_000_000, clock=lambda: now)
    assert transfer.line() == "0 of 200 MB, 0.0 MB/s, time left unknown"
    now = 2.0
    transfer.counted(io.BytesIO()).write(bytes(50_000_000))
    assert transfer.line() == "50 of 200 MB, 25.0 MB/s, 6 s left"
    transfer.counted(io.BytesIO()).write(bytes(150_000_000))
    assert transfer.line() == "200 of 200 MB, 100.0 MB/s, unpacking"


def test_bytes_go_through_unaltered() -> None:
    sink = io.BytesIO()
    assert Meter(3).counted(sink).write(b"abc") == 3
    assert sink.getvalue() == b"abc"


def test_on_a_terminal_it_stands_beside_the_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(progress, "live", lambda: True)
    monkeypatch.setattr(progress, "show", lambda _, text: shown.append(text))
    monkeypatch.setattr(meter, "_TERMINAL_SECONDS", 0.01)
    host: Any = Host()
    with meter.shown(host, 3_000_000):
        gevent.sleep(0.1)
    assert shown[0].startswith("0 of 3 MB") and len(shown) > 2 and shown[-1] == ""
    assert host.said == []


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert meter._LOG_SECONDS == 60
    monkeypatch.setattr(progress, "live", lambda: False)
    monkeypatch.setattr(progress, "show", lambda *_: None)
    monkeypatch.setattr(meter, "_LOG_SECONDS", 0.05)
    host: Any = Host()
    with meter.shown(host, 3_000_000):
        gevent.sleep(0.13)
    assert len(host.said) == 2 and all(each.startswith("0 of 3 MB") for each in host.said)
