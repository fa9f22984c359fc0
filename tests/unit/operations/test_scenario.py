"""We test that bad data of a scenario is refused when a deploy is read, before there is any connection."""

from __future__ import annotations

from typing import Any

import pytest
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_host

from meshstrap.operations import scenario


def manifests(name: str = "canary", **data: Any) -> None:
    inventory = Inventory(([("control-1", data)], {}))  # type: ignore[no-untyped-call]
    with ctx_host.use(inventory.get_host("control-1")):
        scenario.manifests(name)


@pytest.mark.parametrize("weight", ["abc", 10.5, -1, 101, True, False, None, "", "10 %", [10]])
def test_a_share_that_is_none_is_refused_by_name(weight: object) -> None:
    with pytest.raises(OperationValueError, match="canary_weight must be a whole number from 0 to 100"):
        manifests(canary_weight=weight)


@pytest.mark.parametrize("weight", [0, 10, 100, "20"])
def test_a_whole_share_passes_that_check(weight: object) -> None:
    # Without a run of pyinfra the operation behind it cannot be added: that it is tried shows that the data passed.
    with pytest.raises(Exception) as refusal:
        manifests(canary_weight=weight)
    assert not isinstance(refusal.value, OperationValueError)


def test_an_unknown_scenario_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(OperationValueError, match=r"no scenario 'canery'; there are: .*canary"):
        manifests("canery")


def test_an_image_override_that_is_none_is_refused() -> None:
    with pytest.raises(OperationValueError, match="images"):
        manifests(images=[{"name": "xianchao/canary", "newName": "No Such Name"}])
