"""The traffic scenarios, a folder each: manifests.yaml, the claim and its proof."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshstrap.scenarios.engine import Scenario


def names() -> list[str]:
    """List the scenarios: the folders of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def find(name: str) -> Scenario:
    """Give a scenario by its folder's name.

    Raises:
        KeyError: there is no such scenario; names those that there are.
    """
    if name not in names():
        raise KeyError(f"there is no scenario {name!r}; there are: {', '.join(names())}")
    scenario: Scenario = import_module(f"{__name__}.{name}").SCENARIO
    return scenario
