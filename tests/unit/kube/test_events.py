"""We test that of all events the newest about the Pods concerned is told, whichever API wrote it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshstrap.kube.events import newest

MINUTES = st.integers(0, 59)


def event(name: str, minute: int, **times: Any) -> dict[str, Any]:
    at = f"2026-12-01T02:{minute:02}:00Z"
    return {
        "involvedObject": {"kind": "Pod", "name": name},
        "reason": "Failed",
        "message": f"at\n  {minute}",
        **({key: at for key in times} or {"lastTimestamp": at}),
    }


@given(st.lists(MINUTES, min_size=1))
def test_the_newest_is_told(minutes: list[int]) -> None:
    events = [event("web-1", minute) for minute in minutes]
    assert newest(events, lambda name: name == "web-1") == f"Pod/web-1: Failed: at {max(minutes)}"


def test_others_are_passed_over() -> None:
    events = [event("web-1", 1), event("other", 2)]
    assert newest(events, lambda name: name == "web-1").endswith("at 1")
    assert newest(events, lambda name: name == "gone") == ""
    assert newest([{}], bool) == ""


def test_an_event_of_the_newer_api_counts_by_its_own_time() -> None:
    later = {**event("web-1", 2, eventTime=True), "lastTimestamp": None}
    assert newest([event("web-1", 1), later], bool).endswith("at 2")
    repeated = {**event("web-1", 0, eventTime=True), "series": {"lastObservedTime": "2026-12-01T02:03:00Z"}}
    assert newest([later, repeated], bool).endswith("at 0")
