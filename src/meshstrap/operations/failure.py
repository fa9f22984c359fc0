"""How an operation fails one host with words for the person at the keyboard, and no traceback."""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State, StateStage
from pyinfra.context import state as current


def executing() -> bool:
    """Tell whether pyinfra is in its Execute stage: what an earlier step of the run makes is there only then."""
    return current.current_stage == StateStage.Execute


def failure(message: str) -> FunctionCommand:
    """Make the command that prints a message and fails this host alone; the others go on and the run exits with 1.

    Args:
        message: what is wrong, where, and what to do; may have several lines.

    """
    return FunctionCommand(_fail, (message,), {})


def fail(host: Host, message: str) -> bool:
    """Print a message and return what fails the host, from within a function command.

    Args:
        host: the host that fails.
        message: what is wrong, where, and what to do; may have several lines.

    """
    for line in message.splitlines():
        host.log(line, logger.error)
    return False


def _fail(state: State, host: Host, message: str) -> bool:
    return fail(host, message)
