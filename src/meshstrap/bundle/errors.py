"""What goes wrong with a bundle and with what is put into it."""

from __future__ import annotations

import reprlib

_MOST_QUOTED = 200
# repr() follows whatever a file nests, which may be more than memory holds.
_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxdict = 2, 4, 4
_repr.maxstring = _repr.maxother = _MOST_QUOTED


class BundleError(Exception):
    """A bundle, or what should go into it, cannot be used; the message names the file and the place in it."""


def printable(name: str) -> str:
    """Write a name out of a file so that a terminal can show it, whatever bytes it is made of."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def quoted(value: object) -> str:
    """Quote a value out of a file in a message, cut where it is longer than a person would read."""
    try:
        return shortened(_repr.repr(value))
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def shortened(text: str) -> str:
    """Cut a text out of a file to what a person would read of it."""
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."
