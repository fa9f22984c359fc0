"""Read facts of hosts that may die in the middle of a run: that host fails, with words, and the others go on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar

from gevent.lock import BoundedSemaphore
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.context import host

from meshstrap import transport
from meshstrap.operations.failure import failure

P = ParamSpec("P")
T = TypeVar("T")

# All hosts ask the leader things over its one connection, on which OpenSSH allows 10 sessions (MaxSessions).
_LEADER_SESSIONS = 4
leader_turn = BoundedSemaphore(_LEADER_SESSIONS)


class Lost(Exception):
    """A host does not answer; the message names it."""


def fact(of: Host, cls: type[FactBase[T]], **arguments: Any) -> T:
    """Read a fact, really: pyinfra gives the fact's default for one that cannot be read, and goes on.

    Args:
        of: whose; other hosts ask a host a few at a time.
        cls: the fact.
        arguments: the fact's.

    Raises:
        Lost: the host does not answer, or refuses the command.

    """
    problem = "see above"
    if of not in of.state.failed_hosts:
        try:
            with nullcontext() if of.name == host.name else leader_turn:
                transport.reconnect(of)
                transport.check_password(of)
                value = of.get_fact(cls, **arguments)
        except (ConnectError, PyinfraError, EOFError, transport.TransportError) as error:
            problem = str(error) or "the ssh connection was lost"
        else:
            if of not in of.state.failed_hosts:
                return value
    asked = "" if of.name == host.name else f"{host.name}: "
    raise Lost(f"{asked}{of.name} does not answer ({problem}); put that right, then run this again")


def alone(
    operation: Callable[P, Generator[PyinfraCommand, None, None]],
) -> Callable[P, Generator[PyinfraCommand, None, None]]:
    """Make an operation whose host is lost fail this host alone."""

    @functools.wraps(operation)
    def run(*args: P.args, **kwargs: P.kwargs) -> Generator[PyinfraCommand, None, None]:
        try:
            yield from operation(*args, **kwargs)
        except Lost as error:
            yield failure(str(error))

    return run
