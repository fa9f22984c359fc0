"""The canary's objects as its deploy applies them, for those who send them by other means."""

from __future__ import annotations

from typing import Any

from meshstrap.bundle import reference
from meshstrap.kube.plan import OWNER_LABEL
from meshstrap.scenarios import find


def objects() -> list[dict[str, Any]]:
    """Return them with the default weight, full image references and the owner's label."""
    scenario = find("canary")
    found = scenario.objects(scenario.parameters({}), image=lambda name: reference.override(name, []))
    for item in found:
        item["metadata"].setdefault("labels", {})[OWNER_LABEL] = scenario.owner
    return found
