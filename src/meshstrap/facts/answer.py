"""The base of all our facts: an answer that cannot be read fails its own host in words, and no run by a traceback."""

from __future__ import annotations

from typing import TypeVar

from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase
from typing_extensions import override

from meshstrap.bundle.errors import BundleError

T = TypeVar("T")

# What reading text and JSON of another shape than expected comes to.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, BundleError)


class AnswerFact(FactBase[T]):
    """A fact that reads in `read` what its command printed, whatever that is."""

    abstract = True

    @override
    def process(self, output: list[str]) -> T:
        try:
            return self.read(output)
        except _UNREADABLE as error:
            raise FactProcessError(f"the node answered what cannot be read: {error!r}") from error

    def read(self, output: list[str]) -> T:
        """Read the lines that the command printed."""
        raise NotImplementedError
