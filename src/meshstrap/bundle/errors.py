"""What goes wrong with a bundle and with what is put into it."""

from __future__ import annotations


class BundleError(Exception):
    """A bundle, or what should go into it, cannot be used; the message names the file and the place in it."""


def printable(name: str) -> str:
    """Write a name out of a file so that a terminal can show it, whatever bytes it is made of."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
