"""Live progress on a terminal: what each host is waiting for, beside pyinfra's own spinner.

pyinfra's spinner owns the terminal's last line and takes no text. Its four characters may be of any length, though, so
that is where the text goes: one line, redrawn by one hand. Where there is no spinner (no terminal,
PYINFRA_PROGRESS=off) nothing is shown, and whoever waits prints a line now and then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from pyinfra import progress as spinner
from pyinfra.api.host import Host

_CHARACTERS = tuple(spinner.WAIT_CHARS)
# What the spinner puts around the text and the hosts' names.
_FRAME = len("    - {} ")
# How often a wait says what it waits for.
SAY_SECONDS = 15.0
# Fewer columns than that say nothing.
_LEAST = 20

_texts: dict[str, str] = {}


def live() -> bool:
    """Tell whether there is a spinner to show progress beside."""
    return spinner.IS_TTY and os.environ.get("PYINFRA_PROGRESS") != "off"


def show(host: Host, text: str) -> None:
    """Show what a host is at, until the next call; an empty text shows nothing."""
    if text:
        _texts[host.name] = text
    else:
        _texts.pop(host.name, None)
    names = sum(len(each.name) + 2 for each in host.state.inventory.get_active_hosts())
    line = fitted(_texts, spinner.TERMINAL_WIDTH - _FRAME - names)
    for index, character in enumerate(_CHARACTERS):
        spinner.WAIT_CHARS[index] = f"{character} {line}" if line else character


@contextmanager
def shown(host: Host) -> Iterator[None]:
    """Take away what a host shows when it is through, or fails."""
    try:
        yield
    finally:
        show(host, "")


@contextmanager
def waiting(host: Host, what: Callable[[], str]) -> Iterator[None]:
    """Say every 15 s what a host waits for, as long as it does.

    Args:
        host: whose lines they are.
        what: gives what it waits for; is called when it is said.

    """
    began = time.monotonic()
    of = host.connector.host  # pyinfra's context names another host, or none, in another greenlet.

    def say() -> None:
        while True:
            gevent.sleep(SAY_SECONDS)
            of.log(f"{time.monotonic() - began:.0f} s: waiting for {what()}")

    says = gevent.spawn(say)
    try:
        yield
    finally:
        says.kill()


def fitted(texts: dict[str, str], width: int) -> str:
    """Put the hosts' texts onto one line of at most `width` columns; with several hosts each is named.

    Returns an empty line where there is no room to say anything.
    """
    if not texts or width < _LEAST:
        return ""
    parts = [text if len(texts) == 1 else f"{name}: {text}" for name, text in sorted(texts.items())]
    line = "; ".join(parts)
    return line if len(line) <= width else f"{line[: width - 3]}..."
