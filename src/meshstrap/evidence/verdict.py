"""What a proof ends with: PASS, FAIL or INCONCLUSIVE, with the numbers and the rule it was judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """PASS: shown. FAIL: shown to be otherwise. INCONCLUSIVE: too little evidence to say, never shown as PASS."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Verdict:
    """A judged observation.

    Args:
        outcome: PASS, FAIL or INCONCLUSIVE.
        summary: one line for the terminal: what was seen, with its numbers.
        rule: the rule it was judged by, in words that need no other page.
        lines: further lines: each reason, each witness.
        numbers: the same numbers for machines.
        plots: what people would rather look at, as `evidence.plots` makes it.
    """

    outcome: Outcome
    summary: str
    rule: str
    lines: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    plots: tuple[dict[str, Any], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the claim is proved."""
        return self.outcome is Outcome.PASS

    @property
    def line(self) -> str:
        """The line for the terminal."""
        return f"{self.outcome}: {self.summary}"

    def as_dict(self) -> dict[str, Any]:
        """Give the verdict as plain data for the evidence file."""
        return asdict(self) | {"outcome": str(self.outcome), "lines": list(self.lines), "plots": list(self.plots)}
