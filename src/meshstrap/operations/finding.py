"""What preflight finds: something wrong, where, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """Something that would stop the site (error) or that a person should know (warning).

    Args:
        level: `error` or `warning`.
        check: the check's name, by which the data `preflight_accept` accepts it.
        message: what is wrong, and where.
        remedy: what to do.

    """

    level: str
    check: str
    message: str
    remedy: str

    @property
    def text(self) -> str:
        """One line for a person."""
        return f"[{self.check}] {self.message}. {self.remedy}"
