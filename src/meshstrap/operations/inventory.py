"""A site's data as pyinfra reads it, for commands that are not pyinfra's.

Importing this patches the process for gevent, as pyinfra's command line does; so it comes before all that knows ssl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyinfra.api.config import Config
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.state import State
from pyinfra.context import ctx_config, ctx_state
from pyinfra_cli.inventory import make_inventory_from_files
from pyinfra_cli.util import parse_cli_arg

from meshstrap.bundle.errors import BundleError
from meshstrap.operations.site import unknown_data


def overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `KEY=VALUE` as pyinfra's `--data` does: a value that is JSON is what it says, any other is text.

    Raises:
        BundleError: A pair is none.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise BundleError(f"--data {pair}: give KEY=VALUE")
        found[key] = parse_cli_arg(value)
    return found


def site_data(inventory: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Read a site's data as pyinfra does: the leader's, from the inventory and the group_data beside it.

    Args:
        inventory: The inventory's file.
        overrides: What `--data` gives.

    Raises:
        BundleError: There is no such file, no leader in it, it cannot be used, or `--data` gives what nothing reads.
    """
    if not inventory.is_file():
        raise BundleError(f"{inventory}: no such file: run this where the site's inventory is, or name it")
    try:
        config: Config = Config()  # type: ignore[no-untyped-call]
        with ctx_state.use(State()), ctx_config.use(config):
            made = make_inventory_from_files(str(inventory), override_data=dict(overrides), cwd=str(Path.cwd()))
    except PyinfraError as error:
        raise BundleError(f"{inventory}: {error}") from error
    leaders = made.groups.get("leader", [])
    if not leaders:
        raise BundleError(f"{inventory}: has no group `leader`; add `leader = control_plane[:1]`")
    if unknown := unknown_data(made):
        raise BundleError(unknown)
    return dict(leaders[0].data.dict())
