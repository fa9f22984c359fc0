"""Manage the site as a whole: one operator at a time."""

from __future__ import annotations

import atexit
import difflib
import functools
import getpass
import os
import socket
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import gevent
from gevent.lock import RLock
from pyinfra import logger
from pyinfra.api.command import PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.connectors import get_all_connectors
from pyinfra.api.exceptions import ConnectError, OperationValueError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.context import ctx_inventory, host, state
from typing_extensions import override

from meshstrap import transport
from meshstrap.operations.failure import executing, failure

# flock(2) ends with the last process that has the file open, and that one ends with its ssh channel: no clock decides
# whether a run is dead. What the file still says then is the dead run's name. /run is empty after a reboot.
# A run whose connection was made again takes its lock again, unless the file tells that another run had it meanwhile.
_HOLD = """
[ -e /run/meshstrap.lock ] || new=yes
exec 9>>/run/meshstrap.lock || exit 1
command -v flock >/dev/null || { echo "the node has no flock (package util-linux)" >&2; exit 1; }
if ! flock -n 9; then
    # Where the node does not know yet that this run's connection is lost, this run's own shell holds it.
    case $1:$(cat /run/meshstrap.lock) in
        "again:$0, held on this node by pid "*) kill "$(sed 's/.* //' /run/meshstrap.lock)" && flock -w 5 9 ;;
        *) false ;;
    esac || { cat /run/meshstrap.lock; exit 75; }
fi
left=$(cat /run/meshstrap.lock)
if [ "$1" = again ]; then
    case $left$new in "$0, held on this node by pid "*|yes) left= ;; *) echo "$left"; exit 76 ;; esac
fi
echo "left by: $left"
echo "$0, held on this node by pid $$" >/run/meshstrap.lock
read -r end
[ "$end" = released ] && : >/run/meshstrap.lock
exit 0
"""
_HELD_BY_ANOTHER = 75
_HELD_MEANWHILE = 76
_LEFT_BY = "left by:"
_ANSWER_SECONDS = 20
# Data that an inventory may leave out.
_KNOWN = ("kubeconfig", "kube_context", "node_address", "node_port_url")

_turn = RLock()
_held: dict[str, transport.Remote] = {}
# Why a host stops: its own trouble, or for all of them the run that holds one.
_troubles: dict[str, str] = {}
_refusals: list[str] = []


def lock(**arguments: Any) -> OperationMeta:
    """Make this run the only one on its hosts, until it ends.

    The locks of all hosts, and of the leader though it be outside --limit, are taken together, in the order of their
    names, by whichever host comes first: of two runs at the same time one gets all of them, and the other stops on
    every host and says who holds the site since when. The lock of a dead run is taken over, which is said aloud. A host
    that cannot be locked for a reason of its own (no sudo, gone) fails alone.

    A lock is lost with the ssh connection that it was taken over. On a connection made again it is taken again before
    anything else is done there; where another run had it meanwhile, the host fails and says so.

    **Example:**

    .. code:: python

        site.lock(name="One operator at a time")
    """
    refuse_unknown_data()
    refuse_no_leader()
    return _lock(**arguments)


def refuse_unknown_data() -> None:
    """Refuse names that `--data` gives and neither the inventory nor its group_data has: nothing would read them.

    Raises:
        OperationValueError: there are some; each is named, with the name that it may have been meant for.

    """
    if unknown := unknown_data(ctx_inventory.get()):  # type: ignore[no-untyped-call]
        raise OperationValueError(unknown)


def refuse_no_leader() -> None:
    """Refuse an inventory in which nobody leads: deploys would do nothing on any node, and end well.

    Raises:
        OperationValueError: the group `leader` is missing, or empty.

    """
    if not ctx_inventory.get().groups.get("leader"):  # type: ignore[no-untyped-call]
        raise OperationValueError(
            "the inventory has no host in a group `leader`; add `leader = control_plane[:1]` to inventory.py"
        )


def unknown_data(inventory: Inventory) -> str:
    """Say which names `--data` gives and nothing of a site has; empty where there are none.

    Args:
        inventory: the site's, with what `--data` gives as its override_data.

    """
    given = {name for name in inventory.override_data if not name.startswith("_")}
    known = {*_KNOWN, *inventory.data}.union(*inventory.host_data.values(), *inventory.group_data.values())
    if given - known:
        # Finding them takes longer than all else here, on each host and for each deploy that another one includes.
        connectors = get_all_connectors()  # type: ignore[no-untyped-call]
        known.update(*(vars(each.data_cls).get("__annotations__", {}) for each in connectors.values()))
    if not given - known:
        return ""
    said = []
    for name in sorted(given - known):
        close = difflib.get_close_matches(name, known, n=1)
        said.append(f"--data {name}: there is no such setting" + (f"; is {close[0]} meant?" if close else ""))
    return "\n".join([*said, "group_data/all.py has them all, and takes those of your own deploys"])


@operation()
def _lock() -> Generator[PyinfraCommand, None, None]:
    if not executing():
        host.noop("the lock is taken when the run executes")
        return
    with _turn:
        if not _held and not _troubles and not _refusals:
            _take_all(state.inventory.get_active_hosts())
    trouble = _refusals[0] if _refusals else _troubles.get(host.name)
    if trouble:
        yield failure(trouble)
    else:
        host.noop("no other run is under way")


@functools.cache
def _holder() -> str:
    return (
        f"{getpass.getuser()}@{socket.gethostname()} (pid {os.getpid()}),"
        f" started {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    )


class _Retaking(BaseStateCallback):
    @override
    @staticmethod
    def host_connect(state: State, host: Host) -> None:
        """Take the lock again that was lost with the connection before this one.

        Raises:
            TransportError: the connection shall not be used: the lock cannot be taken, or another run had it.

        """
        if host.name in _held and (refusal := _take(host, again=True)):
            raise transport.TransportError(refusal)


def _take_all(active: list[Host]) -> None:
    leaders = state.inventory.groups["leader"]
    atexit.register(_release_all)
    state.add_callback_handler(_Retaking())  # type: ignore[no-untyped-call]
    reachable = {*active, *leaders} - state.failed_hosts
    for each in sorted(reachable, key=lambda each: each.name):
        try:
            each.connect(reason="to take its lock", show_errors=False, raise_exceptions=True)
            refusal = _take(each)
        except ConnectError as error:
            _troubles[each.name] = f"{each.name}: {error}"
            continue
        except transport.TransportError as error:
            _troubles[each.name] = str(error)
            continue
        if refusal:
            _refusals.append(refusal)
            _release_all()
            return


def _take(each: Host, *, again: bool = False) -> str | None:
    """Take one host's lock, or take it again; return who holds it where another run does, or did meanwhile.

    Raises:
        TransportError: it cannot be taken for another reason.

    """
    transport.authorise(each)
    how = ["again"] if again else []
    remote = transport.hold(each, StringCommand("sh", "-c", QuoteString(_HOLD), QuoteString(_holder()), *how))
    try:
        with gevent.Timeout(_ANSWER_SECONDS):
            answer = remote.read_line()
    except gevent.Timeout:
        raise transport.TransportError(f"{each.name}: no answer within {_ANSWER_SECONDS} s") from None
    if answer.startswith(_LEFT_BY):
        _held[each.name] = remote
        left = answer.removeprefix(_LEFT_BY).strip()
        if left:
            each.log(f"Took over the lock of a run that died: {left}", logger.warning)
        return None
    result = remote.finish()
    if result.exit_code == _HELD_BY_ANOTHER:
        return (
            f"{each.name}: another run is under way: {answer}.\n"
            "Wait for its end and run this again; if that operator's machine is gone, end the named pid on the node."
        )
    if result.exit_code == _HELD_MEANWHILE:
        return (
            f"{each.name}: another run was at work while the ssh connection was lost: {answer or 'it is through'}.\n"
            "Run this again: it looks at everything anew."
        )
    raise transport.TransportError(
        f"{each.name}: cannot take the lock in /run: {(answer + ' ' + result.stderr).strip()}"
    )


def _release_all() -> None:
    for remote in _held.values():
        remote.finish("released")
    _held.clear()
