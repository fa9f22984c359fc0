"""The exact region and interval, checked against published tables, brute force and the edges."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshstrap.evidence.binomial import Region, acceptance_region, confidence_interval


@pytest.mark.parametrize(
    ("n", "alpha", "low", "high"),
    [
        (100, 0.01, 3, 18),
        (100, 0.001, 2, 21),
        (200, 0.01, 10, 32),
        (200, 0.001, 8, 35),
        (400, 0.01, 25, 56),
        (400, 0.001, 22, 61),
        (1000, 0.01, 76, 125),
        (1000, 0.001, 70, 132),
    ],
)
def test_region_of_ten_percent_is_the_table_of_the_reference(n: int, alpha: float, low: int, high: int) -> None:
    assert acceptance_region(n, 0.1, alpha) == Region(low, high)


@given(st.integers(1, 40), st.integers(0, 100), st.sampled_from([0.2, 0.05, 0.001, 1e-4]))
@settings(max_examples=150, deadline=None)
def test_region_is_the_smallest_that_leaves_half_alpha_in_each_tail(n: int, percent: int, alpha: float) -> None:
    p = Fraction(percent, 100)
    chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    region = acceptance_region(n, p, alpha)
    half = Fraction(str(alpha)) / 2
    assert sum(chance[: region.low]) <= half < sum(chance[: region.low + 1])
    assert sum(chance[region.high + 1 :]) <= half < sum(chance[region.high :])


@pytest.mark.parametrize("n", [1, 400, 10_000])
def test_a_share_of_nothing_or_all_accepts_exactly_that(n: int) -> None:
    assert acceptance_region(n, 0, 0.001) == Region(0, 0)
    assert acceptance_region(n, 1, 0.001) == Region(n, n)


def test_region_is_symmetric_and_quick_at_ten_thousand() -> None:
    started = time.monotonic()
    region, mirrored = acceptance_region(10_000, 0.37, 1e-4), acceptance_region(10_000, 0.63, 1e-4)
    assert time.monotonic() - started < 5
    assert (region.low, region.high) == (10_000 - mirrored.high, 10_000 - mirrored.low)
    assert region.low < 3700 < region.high


@pytest.mark.parametrize(
    ("count", "n", "alpha", "low", "high"),
    [
        (10, 100, 0.001, 0.028, 0.234),  # istio-scenarios.md 3.5
        (40, 400, 0.001, 0.057, 0.158),
        (10, 100, 0.05, 0.0490, 0.1762),  # the textbook's 95 % interval
    ],
)
def test_interval_matches_published_values(count: int, n: int, alpha: float, low: float, high: float) -> None:
    seen = confidence_interval(count, n, alpha)
    assert seen == pytest.approx((low, high), abs=6e-4)


def test_interval_of_none_and_all_has_its_closed_form() -> None:
    low, high = confidence_interval(0, 400, 0.001)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.0005 ** (1 / 400), rel=1e-9)
    low, high = confidence_interval(10_000, 10_000, 0.001)
    assert low == pytest.approx(0.0005 ** (1 / 10_000), rel=1e-9)
    assert high == 1.0


@pytest.mark.parametrize("percent", range(0, 101, 7))
def test_interval_holds_the_declared_share_exactly_when_the_region_holds_the_count(percent: int) -> None:
    n, p = 60, percent / 100
    region = acceptance_region(n, Fraction(percent, 100), 0.05)
    for count in range(n + 1):
        low, high = confidence_interval(count, n, 0.05)
        assert (low - 1e-9 <= p <= high + 1e-9) == (count in region)


@pytest.mark.parametrize(("n", "p", "alpha"), [(0, 0.1, 0.1), (5, -0.1, 0.1), (5, 1.1, 0.1), (5, 0.1, 0), (5, 0.1, 1)])
def test_region_refuses_what_is_no_binomial(n: int, p: float, alpha: float) -> None:
    with pytest.raises(ValueError):
        acceptance_region(n, p, alpha)


@pytest.mark.parametrize(("count", "n", "alpha"), [(1, 0, 0.1), (-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0)])
def test_interval_refuses_what_is_no_count(count: int, n: int, alpha: float) -> None:
    with pytest.raises(ValueError):
        confidence_interval(count, n, alpha)
