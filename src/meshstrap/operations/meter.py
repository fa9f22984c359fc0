"""Count what a transfer has sent, and show bytes, rate and time left while it lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import gevent
from pyinfra.api.host import Host

from meshstrap.operations import progress

_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 60.0


class Meter:
    """What one transfer has sent so far.

    Args:
        total: bytes that it will send.
        clock: seconds.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.sent = 0
        self._total = total
        self._clock = clock
        self._began = clock()

    def counted(self, stream: BinaryIO) -> BinaryIO:
        """Wrap a stream so that what is written to it is counted."""
        return cast(BinaryIO, _Counted(stream, self))

    def line(self) -> str:
        """Say how far it is: bytes, rate, and seconds left."""
        seconds = self._clock() - self._began
        rate = self.sent / seconds if seconds > 0 else 0.0
        if self.sent >= self._total:
            left = "unpacking"
        elif rate > 0:
            left = f"{(self._total - self.sent) / rate:.0f} s left"
        else:
            left = "time left unknown"
        return f"{self.sent / 1e6:.0f} of {self._total / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, {left}"


class _Counted:
    def __init__(self, stream: BinaryIO, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter

    def write(self, data: bytes) -> int:
        size = self._stream.write(data)
        self._meter.sent += size
        return size


@contextmanager
def shown(host: Host, total: int) -> Iterator[Meter]:
    """Show a host's transfer while it lasts: on a terminal twice a second, else as one line a minute.

    Args:
        host: whose.
        total: bytes that it will send.
    """
    meter = Meter(total)
    shows = gevent.spawn(_show, host, meter)
    with progress.shown(host):
        try:
            yield meter
        finally:
            shows.kill()


def _show(host: Host, meter: Meter) -> None:
    while True:
        gevent.sleep(_TERMINAL_SECONDS if progress.live() else _LOG_SECONDS)
        if progress.live():
            progress.show(host, meter.line())
        else:
            host.log(meter.line())
