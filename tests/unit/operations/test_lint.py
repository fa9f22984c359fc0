"""We test that a scenario whose objects would not do what they say is refused when a deploy is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_host, ctx_inventory
from typing_extensions import override

from meshstrap import scenarios
from meshstrap.operations import scenario
from meshstrap.scenarios.canary.scenario import Canary
from meshstrap.scenarios.engine import Object, declared


class Ratios(Canary):
    """A canary whose weights are ratios, and whose retries say not on what."""

    @property
    @override
    def manifests(self) -> Path:
        return scenarios.find("canary").manifests

    @override
    def set_parameters(self, objects: list[Object], parameters: Mapping[str, Any]) -> None:
        rule = declared(objects, "VirtualService")["spec"]["http"][0]
        rule["retries"] = {"attempts": 3}
        for destination, weight in zip(rule["route"], (50, 30), strict=True):
            destination["weight"] = weight


def refusal(**data: Any) -> str:
    inventory = Inventory(([("control-1", data)], {}))  # type: ignore[no-untyped-call]
    with ctx_inventory.use(inventory), ctx_host.use(inventory.get_host("control-1")):
        with pytest.raises(OperationValueError) as refused:
            scenario.manifests("canary")
        return str(refused.value)


@pytest.fixture(autouse=True)
def ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "_found", lambda name: Ratios())


def test_our_own_objects_are_refused_by_object_field_and_what_to_write() -> None:
    weights, retries = refusal().splitlines()
    assert weights.startswith("VirtualService/canary/canary in manifests.yaml, .spec.http[0].route: the weights 50 and")
    assert weights.endswith("[weights]. Instead: weights that sum to 100")
    assert "[retry-on]" in retries


def test_they_are_judged_for_the_sites_own_istio() -> None:
    (weights,) = refusal(istio_version="1.14.6").splitlines()
    assert "Istio's webhook refuses the object" in weights


@pytest.mark.parametrize("version", [1.31, "latest"])
def test_a_version_that_is_none_is_refused_by_name(version: object) -> None:
    assert refusal(istio_version=version).startswith("istio_version: ")
