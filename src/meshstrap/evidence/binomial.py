"""Exact binomial statistics for a share seen in n independent requests; standard library only.

Envoy draws one random number a request to choose among weighted clusters, so the number of requests that reach
one arm is Binomial(n, weight): no approximation and no "about right" is needed to judge it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Region:
    """The counts `low..high` (both included) that are accepted for Binomial(n, p) at `alpha`."""

    low: int
    high: int

    def __contains__(self, count: int) -> bool:
        return self.low <= count <= self.high

    @property
    def text(self) -> str:
        """The region as people read it: `22..61`."""
        return f"{self.low}..{self.high}"


def acceptance_region(n: int, p: Fraction | float, alpha: Fraction | float) -> Region:
    """Compute the exact two-sided acceptance region: each tail outside it holds at most alpha / 2.

    Args:
        n: number of independent requests, at least 1.
        p: declared share of the arm, 0 to 1; 0 and 1 accept exactly 0 and n. A float counts as its shortest
            decimal (0.1 is one tenth), so that the whole sum is exact rational arithmetic.
        alpha: the largest chance, 0 < alpha < 1, that an honest split falls outside.

    Returns:
        The smallest interval of counts with P(X < low) <= alpha / 2 and P(X > high) <= alpha / 2.

    Raises:
        ValueError: an argument is out of its range.
    """
    share, level = _exact(p), _exact(alpha)
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if not 0 <= share <= 1:
        raise ValueError(f"the share must be from 0 to 1, not {p}")
    if not 0 < level < 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
    return Region(_lower_bound(n, share, level), n - _lower_bound(n, 1 - share, level))


def confidence_interval(count: int, n: int, alpha: float) -> tuple[float, float]:
    """Compute the Clopper-Pearson interval: every share that would not be refused by the count seen.

    Args:
        count: how many of the n requests reached the arm.
        n: number of independent requests, at least 1.
        alpha: 0.001 gives the 99.9 % interval.

    Returns:
        Lower and upper share, 0 to 1, good to about 1e-12; the lower of count 0 is 0, the upper of count n is 1.

    Raises:
        ValueError: an argument is out of its range.
    """
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"count must be from 0 to n, and n at least 1, not {count} of {n}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
    return _lower_limit(count, n, alpha), 1.0 - _lower_limit(n - count, n, alpha)


def _exact(number: Fraction | float) -> Fraction:
    return number if isinstance(number, Fraction) else Fraction(str(number))


def _lower_bound(n: int, share: Fraction, alpha: Fraction) -> int:
    """Smallest count k with P(X <= k) > alpha / 2, by integers: P(X = k) = C(n,k) a^k b^(n-k) / (a+b)^n."""
    a, b = share.numerator, share.denominator - share.numerator
    if b == 0:
        return n
    term = b**n
    total = term
    # P(X <= k) > alpha / 2, multiplied out so that no division rounds.
    limit = alpha.numerator * share.denominator**n
    k = 0
    while total * 2 * alpha.denominator <= limit:
        term = term * (n - k) * a // ((k + 1) * b)
        total += term
        k += 1
    return k


def _lower_limit(count: int, n: int, alpha: float) -> float:
    """Find the share p with P(X >= count | p) = alpha / 2; 0 for count 0."""
    if count == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _upper_tail(count, n, middle) < alpha / 2:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _upper_tail(count: int, n: int, p: float) -> float:
    """P(X >= count) for 0 < p < 1, summed from the shorter side so that little tails keep their digits."""
    if not 0.0 < p < 1.0:
        return p
    log_p, log_q, log_n = math.log(p), math.log1p(-p), math.lgamma(n + 1)

    def chance(k: int) -> float:
        return math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)

    if count > n * p:
        return math.fsum(chance(k) for k in range(count, n + 1))
    return 1.0 - math.fsum(chance(k) for k in range(count))
