"""Read a scenario's parameters from the site's data, and refuse what is none in words that name the key."""

from __future__ import annotations

import re
from collections.abc import Mapping


class ParameterError(ValueError):
    """A parameter that cannot be used: names the data key, the value and what would do."""


def whole_number(data: Mapping[str, object], key: str, default: int, low: int, high: int) -> int:
    """Read a whole number.

    Args:
        data: the site's flat data; `--data key=20` may arrive as text.
        key: name of the datum.
        default: its value when it is not given.
        low: smallest value allowed.
        high: largest value allowed.

    Returns:
        The number.

    Raises:
        ParameterError: the value is no whole number from `low` to `high` (true, 10.0, "10 %" and "" are none).
    """
    value = data.get(key, default)
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        number = int(value)
    if number is None or not low <= number <= high:
        raise ParameterError(f"{key} must be a whole number from {low} to {high}, not {value!r}")
    return number
