"""Refuse a run that does nothing: pyinfra ends it with exit code 0, which a gate would read as proved or as declared.

Called from config.py, the one file that pyinfra reads before it knows the hosts.
"""

from __future__ import annotations

import sys

import click
from pyinfra.context import ctx_state, state

# What every deploy that locks the site calls that step.
LOCK = "One operator at a time"


def refuse() -> None:
    """Have a run of deploys fail at its end where no host was in it, or no operation."""
    context = click.get_current_context(silent=True)
    if context and str((context.params.get("operations") or [""])[0]).endswith(".py"):
        context.call_on_close(_fail_if_empty)


def _fail_if_empty() -> None:
    # What ended before, with words of its own, has no state or is not through with the deploys.
    ended = sys.exc_info()[1]
    if (ended and not (isinstance(ended, SystemExit) and not ended.code)) or not ctx_state.isset():  # type: ignore[no-untyped-call]
        return
    # The lock is no work of its own.
    work = [meta for meta in state.op_meta.values() if not any(name.endswith(LOCK) for name in meta.names)]
    if why := nothing_done(len(state.activated_hosts), len(work)):
        click.echo(f"--> {why}", err=True)
        raise SystemExit(1)


def nothing_done(hosts: int, operations: int) -> str:
    """Say why a run did nothing; empty where it did. Pure.

    Args:
        hosts: how many took part.
        operations: how many were to be run.
    """
    if not hosts:
        return "No host took part, so nothing was done and nothing is proved: look at --limit and at the inventory"
    if not operations:
        return (
            "No operation is for these hosts, so nothing was done and nothing is proved: this deploy works on the"
            " leader, which --limit leaves out"
        )
    return ""
