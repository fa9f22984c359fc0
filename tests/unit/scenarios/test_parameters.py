"""A weight is a whole number from 0 to 100, and everything else is refused by name."""

from __future__ import annotations

import pytest

from meshstrap.scenarios import find
from meshstrap.scenarios.parameters import ParameterError


@pytest.mark.parametrize(("given", "weight"), [(0, 0), (100, 100), ("20", 20), ("0", 0), (10, 10)])
def test_whole_numbers_are_taken_as_numbers_and_as_text(given: object, weight: int) -> None:
    assert find("canary").parameters({"canary_weight": given, "other": 1}) == {"weight": weight}


def test_the_tutorials_weight_is_the_default() -> None:
    assert find("canary").parameters({}) == {"weight": 10}


@pytest.mark.parametrize(
    "given",
    [
        True,
        False,
        10.0,
        10.5,
        -1,
        101,
        "-1",
        "101",
        "10 %",
        "ten",
        "",
        " 10",
        "1e1",
        "0x10",
        "\u0661",
        None,
        [10],
        "9" * 40,
    ],
)
def test_what_is_none_is_refused_with_its_name_and_value(given: object) -> None:
    with pytest.raises(ParameterError) as refusal:
        find("canary").parameters({"canary_weight": given})
    assert str(refusal.value) == f"canary_weight must be a whole number from 0 to 100, not {given!r}"
