"""Durations as Istio's objects and Envoy's dumps write them."""

from __future__ import annotations

import re

_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")


def seconds(duration: str) -> float:
    """Read a duration as Go and protobuf write it (`2s`, `500ms`, `1m30s`, `0.500s`), in seconds.

    Raises:
        ValueError: it is none.
    """
    parts = _PART.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"{duration!r} is no duration such as 2s or 500ms")
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in parts)
