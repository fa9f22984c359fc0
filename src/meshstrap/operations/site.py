"""Manage the site as a whole: one operator at a time."""

from __future__ import annotations

import atexit
import getpass
import os
import socket
from collections.abc import Generator
from datetime import UTC, datetime

from gevent.lock import RLock
from pyinfra import logger
from pyinfra.api.command import PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import host, state

from meshstrap import transport
from meshstrap.operations.failure import executing, failure

# flock(2) ends with the last process that has the file open, and that one ends with its ssh channel: no clock decides
# whether a run is dead. What the file still says then is the dead run's name. /run is empty after a reboot.
_HOLD = """
exec 9>>/run/meshstrap.lock || exit 1
flock -n 9 || { cat /run/meshstrap.lock; exit 75; }
echo "left by: $(cat /run/meshstrap.lock)"
echo "$0, held on this node by pid $$" >/run/meshstrap.lock
read -r end
[ "$end" = released ] && : >/run/meshstrap.lock
exit 0
"""
_LEFT_BY = "left by:"

_turn = RLock()
_held: dict[str, transport.Remote] = {}
_refusals: list[str] = []


@operation()
def lock() -> Generator[PyinfraCommand, None, None]:
    """Make this run the only one on its hosts, until it ends.

    The locks of all hosts are taken together, in the order of their names, by whichever host comes first: of two runs
    at the same time one gets all of them, and the other stops on every host and says who holds the site since when.
    The lock of a dead run is taken over, which is said aloud.

    **Example:**

    .. code:: python

        site.lock(name="One operator at a time")
    """
    if not executing():
        host.noop("the lock is taken when the run executes")
        return
    with _turn:
        if not _held and not _refusals:
            _take_all(state.inventory.get_active_hosts())
    if _refusals:
        yield failure(_refusals[0])
    else:
        host.noop("no other run is under way")


def _take_all(hosts: list[Host]) -> None:
    holder = (
        f"{getpass.getuser()}@{socket.gethostname()} (pid {os.getpid()}),"
        f" started {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
    atexit.register(_release_all)
    for each in sorted(hosts, key=lambda each: each.name):
        if not isinstance(each.connector, SSHConnector):
            continue
        refusal = _take(each, holder)
        if refusal:
            _refusals.append(refusal)
            _release_all()
            return


def _take(each: Host, holder: str) -> str | None:
    try:
        remote = transport.hold(each, StringCommand("sh", "-c", QuoteString(_HOLD), QuoteString(holder)))
    except transport.TransportError as error:
        return str(error)
    answer = remote.read_line()
    if answer.startswith(_LEFT_BY):
        _held[each.name] = remote
        left = answer.removeprefix(_LEFT_BY).strip()
        if left:
            each.log(f"Took over the lock of a run that died: {left}", logger.warning)
        return None
    result = remote.finish()
    if result.exit_code == 75:
        return (
            f"{each.name}: another run is under way: {answer}.\n"
            "Wait for its end and run this again; if that operator's machine is gone, end the named pid on the node."
        )
    return f"{each.name}: cannot take the lock in /run: {(answer + ' ' + result.stderr).strip()}"


def _release_all() -> None:
    for remote in _held.values():
        remote.finish("released")
    _held.clear()
