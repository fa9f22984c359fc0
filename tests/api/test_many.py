"""Thousands of objects: all of them right, and the memory of the process not in proportion to what it waits for."""

from __future__ import annotations

import resource

from meshstrap.kube.apply import apply
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import plan

from .objects import Item, config_map

COUNT = 5000
SPACES = 20


def test_five_thousand_objects(client: Client) -> None:
    objects: list[Item] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"many-{number}"}} for number in range(SPACES)
    ]
    objects += [config_map(f"c{number}", f"many-{number % SPACES}", a=str(number)) for number in range(COUNT)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(apply(client, plan(client, objects, owner="many"))) == COUNT + SPACES
    objects[-1]["data"]["a"] = "changed"
    found = plan(client, objects, owner="many")
    assert [str(change) for change in found.pending] == [
        f"ConfigMap/many-{(COUNT - 1) % SPACES}/c{COUNT - 1} configured"
    ]
    assert str(found) == f"1 configured, {COUNT + SPACES - 1} unchanged"
    # Kilobytes: the declaration, the live objects and their plans.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
