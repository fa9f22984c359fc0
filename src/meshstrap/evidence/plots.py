"""Plots for people, as small inline SVG: a count in its region, durations beside their limit, values over time.

A judge puts plots into its verdict as plain data, so that the evidence file holds them and the page knows no scenario.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _LEFT, _RIGHT = 640.0, 150.0, 20.0
_SPAN = _WIDTH - _LEFT - _RIGHT


def region(title: str, *, count: int, n: int, low: int, high: int) -> dict[str, Any]:
    """Make the plot of a count of n with the region in which it is accepted (both ends included)."""
    return {"kind": "region", "title": title, "count": count, "n": n, "low": low, "high": high}


def durations(title: str, values: Mapping[str, Sequence[float]], *, limit: float, unit: str) -> dict[str, Any]:
    """Make the plot of durations by group, each a dot, with the limit that they are about as a line."""
    groups = {name: list(each) for name, each in values.items()}
    return {"kind": "durations", "title": title, "values": groups, "limit": limit, "unit": unit}


def timeline(title: str, series: Mapping[str, Sequence[Sequence[float]]], *, unit: str) -> dict[str, Any]:
    """Make the plot of values over time: for each name its points, (seconds, value), each holding until the next."""
    lines = {name: [list(point) for point in points] for name, points in series.items()}
    return {"kind": "timeline", "title": title, "series": lines, "unit": unit}


def svg(plot: Mapping[str, Any]) -> str:
    """Draw a plot.

    Args:
        plot: what one of the functions above made, perhaps read from a file that somebody else wrote.

    Returns:
        An SVG element that uses the page's own colours (classes `mark`, `accept`, `axis`, `limit`); empty for a plot
        that cannot be drawn.
    """
    try:
        body, height = {"region": _region, "durations": _durations, "timeline": _timeline}[plot["kind"]](plot)
        title = escape(str(plot["title"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return ""
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="{title}">{body}</svg>'
        f"<figcaption>{title}</figcaption></figure>"
    )


def _region(plot: Mapping[str, Any]) -> tuple[str, float]:
    n, count, low, high = (int(plot[key]) for key in ("n", "count", "low", "high"))
    # What is accepted takes a third of the width at least: at 10 % the whole of 0 to n would hide it.
    end = max(min(n, 3 * high - 2 * low), count, 1)

    def x(value: float) -> float:
        return _LEFT + _SPAN * value / end

    half = _SPAN / end / 2
    return (
        f'<text class="name" x="{_LEFT - 10:g}" y="34">{count} of {n}</text>'
        f'<line class="axis" x1="{_LEFT:g}" y1="46" x2="{_WIDTH - _RIGHT:g}" y2="46"/>'
        f'<rect class="accept" x="{x(low) - half:.1f}" y="14" width="{x(high) - x(low) + 2 * half:.1f}" height="32"/>'
        f'<line class="mark" x1="{x(count):.1f}" y1="8" x2="{x(count):.1f}" y2="52"/>'
        f'<text x="{_LEFT:g}" y="64">0</text><text x="{x(low):.1f}" y="64" text-anchor="middle">{low}</text>'
        f'<text x="{x(high):.1f}" y="64" text-anchor="middle">{high}</text>'
        f'<text x="{_WIDTH - _RIGHT:g}" y="64" text-anchor="end">{end}</text>',
        72,
    )


def _durations(plot: Mapping[str, Any]) -> tuple[str, float]:
    limit, unit = float(plot["limit"]), escape(str(plot["unit"]))
    values = {str(name): [float(value) for value in each] for name, each in plot["values"].items()}
    end = 1.05 * max([limit, *(value for each in values.values() for value in each)])

    def x(value: float) -> float:
        return _LEFT + _SPAN * value / end

    bottom = 20 + 26 * len(values)
    rows = "".join(
        f'<text class="name" x="{_LEFT - 10:g}" y="{30 + 26 * row}">{escape(name)}</text>'
        f'<line class="axis" x1="{_LEFT:g}" y1="{26 + 26 * row}" x2="{_WIDTH - _RIGHT:g}" y2="{26 + 26 * row}"/>'
        + "".join(f'<circle class="mark" cx="{x(value):.1f}" cy="{26 + 26 * row}" r="5"/>' for value in each)
        for row, (name, each) in enumerate(values.items())
    )
    return (
        f'{rows}<line class="limit" x1="{x(limit):.1f}" y1="10" x2="{x(limit):.1f}" y2="{bottom}"/>'
        f'<text x="{_LEFT:g}" y="{bottom + 14}">0</text>'
        f'<text x="{x(limit):.1f}" y="{bottom + 14}" text-anchor="middle">{limit:g} {unit}</text>'
        f'<text x="{_WIDTH - _RIGHT:g}" y="{bottom + 14}" text-anchor="end">{end:.0f} {unit}</text>',
        bottom + 22,
    )


def _timeline(plot: Mapping[str, Any]) -> tuple[str, float]:
    series = {str(name): [(float(t), float(v)) for t, v in points] for name, points in plot["series"].items()}
    end = max(t for points in series.values() for t, _ in points) or 1.0

    def x(seconds: float) -> float:
        return _LEFT + _SPAN * seconds / end

    drawn = []
    for row, (name, points) in enumerate(series.items()):
        top, most = 14 + 62 * row, max(value for _, value in points) or 1.0
        steps, last = [], None
        for seconds, value in points:
            y = top + 40 - 40 * value / most
            steps += ([f"{x(seconds):.1f},{last:.1f}"] if last is not None else []) + [f"{x(seconds):.1f},{y:.1f}"]
            last = y
        drawn.append(
            f'<text class="name" x="{_LEFT - 10:g}" y="{top + 24}">{escape(name)}</text>'
            f'<line class="axis" x1="{_LEFT:g}" y1="{top + 40}" x2="{_WIDTH - _RIGHT:g}" y2="{top + 40}"/>'
            f'<polyline class="mark" points="{" ".join(steps)}"/>'
            f'<text x="{_LEFT - 4:g}" y="{top + 8}" text-anchor="end">{most:g}</text>'
        )
    bottom = 14 + 62 * len(series)
    unit = escape(str(plot["unit"]))
    return (
        "".join(drawn)
        + f'<text x="{_LEFT:g}" y="{bottom + 4}">0</text>'
        + f'<text x="{_WIDTH - _RIGHT:g}" y="{bottom + 4}" text-anchor="end">{end:.0f} {unit}</text>',
        bottom + 12,
    )
