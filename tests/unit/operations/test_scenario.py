"""We test that bad data of a scenario is refused when a deploy is read, before there is any connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_host, ctx_inventory

from meshstrap.bundle import lock
from meshstrap.operations import node_ports, scenario
from meshstrap.scenarios.circuit_breaker.scenario import CircuitBreaker
from meshstrap.scenarios.engine import declared

Step = Callable[[str], object]


def manifests(name: str = "canary", *, step: Step = scenario.manifests, **data: Any) -> None:
    inventory = Inventory(([("control-1", data)], {}))  # type: ignore[no-untyped-call]
    with ctx_inventory.use(inventory), ctx_host.use(inventory.get_host("control-1")):
        step(name)


both = pytest.mark.parametrize("step", [scenario.manifests, scenario.proof], ids=["manifests", "proof"])


@pytest.mark.parametrize("weight", ["abc", 10.5, -1, 101, True, False, None, "", "10 %", [10]])
@both
def test_a_share_that_is_none_is_refused_by_name(step: Step, weight: object) -> None:
    with pytest.raises(OperationValueError, match="canary_weight must be a whole number from 0 to 100"):
        manifests(step=step, canary_weight=weight)


@pytest.mark.parametrize("weight", [0, 10, 100, "20"])
@both
def test_a_whole_share_passes_that_check(step: Step, weight: object) -> None:
    # Without a run of pyinfra the operation behind it cannot be added: that it is tried shows that the data passed.
    with pytest.raises(Exception) as refusal:
        manifests(step=step, canary_weight=weight)
    assert not isinstance(refusal.value, OperationValueError)


@both
def test_an_unknown_scenario_is_refused_with_those_that_there_are(step: Step) -> None:
    with pytest.raises(OperationValueError, match=r"no scenario 'canery'; there are: .*canary"):
        manifests("canery", step=step)


@pytest.mark.parametrize(
    "images",
    [[{"name": "xianchao/canary", "newName": "No Such Name"}], [{"newTag": "v1"}], "v1", {"name": "x"}, ["x"], 1, None],
)
@both
def test_an_image_override_that_is_none_is_refused(step: Step, images: object) -> None:
    with pytest.raises(OperationValueError, match="images"):
        manifests(step=step, images=images)


@pytest.mark.parametrize("revision", [1.31, "1.31", ""])
@both
def test_a_revision_that_is_none_is_refused(step: Step, revision: object) -> None:
    with pytest.raises(OperationValueError, match="istio_revision must be"):
        manifests(step=step, istio_revision=revision)


@pytest.mark.parametrize("prove", ["no", 0, None])
def test_a_wish_for_no_proof_that_is_unclear_is_refused(prove: object) -> None:
    with pytest.raises(OperationValueError, match="prove must be true or false"):
        manifests(step=scenario.proof, prove=prove)


@pytest.mark.parametrize("force", ["no", 1, None])
def test_a_force_that_is_unclear_is_refused(force: Any) -> None:
    with pytest.raises(OperationValueError, match="force must be true or false"):
        manifests(step=lambda name: scenario.manifests(name, force=force))


def test_without_a_gateway_in_the_profile_the_canary_is_refused_by_name() -> None:
    with pytest.raises(OperationValueError, match="canary needs the ingress gateway; istio_profile is minimal"):
        manifests(istio_profile="minimal")


def bundle(directory: Path, *references: str) -> Path:
    digest = "sha256:" + "0" * 64
    held = [lock.Image(name, "linux/amd64", digest, digest, (), 1, "test") for name in references]
    lock.write(lock.Lock(images=tuple(held)), directory / "bundle.lock.yaml")
    return directory


def test_an_image_that_the_bundle_lacks_is_refused_by_reference_object_and_file(tmp_path: Path) -> None:
    where = bundle(tmp_path, "docker.io/xianchao/canary:v1")
    with pytest.raises(OperationValueError) as refusal:
        manifests(bundle=str(where))
    (line, advice) = str(refusal.value).splitlines()
    assert line.startswith("Deployment/canary/appv2 in ")
    assert f"canary/manifests.yaml asks for image docker.io/xianchao/canary:v2, which {where}/bundle.lock.yaml" in line
    assert "data `images`" in advice


def test_the_sites_own_name_for_an_image_is_what_the_bundle_must_hold(tmp_path: Path) -> None:
    where = bundle(tmp_path, "docker.io/xianchao/canary:v1", "docker.io/xianchao/canary:v2")
    own = [{"name": "xianchao/canary", "newName": "registry.example/canary"}]
    with pytest.raises(OperationValueError, match=r"registry\.example/canary:v1.*\n.*registry\.example/canary:v2"):
        manifests(bundle=str(where), images=own)
    bundle(tmp_path, "registry.example/canary:v1", "registry.example/canary:v2")
    with pytest.raises(Exception) as passed:
        manifests(bundle=str(where), images=own)
    assert not isinstance(passed.value, OperationValueError)


def test_a_broken_lock_is_refused_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "bundle.lock.yaml").write_text("version: 9\n")
    with pytest.raises(OperationValueError, match=r"bundle\.lock\.yaml: version"):
        manifests(bundle=str(tmp_path))


@pytest.mark.parametrize(
    "url",
    ["10.0.0.1:30191", "https://10.0.0.1", "http://10.0.0.1/app", "", 30191, "http://:80", "http://10.0.0.1:80800"],
)
def test_a_published_url_that_cannot_be_asked_is_refused_by_its_host(url: object) -> None:
    with pytest.raises(OperationValueError, match="control-1: node_port_url must be like http://"):
        manifests(step=scenario.proof, node_port_url=url)


def test_a_published_url_may_have_any_port_and_is_that_of_its_host() -> None:
    inventory = Inventory(
        (
            [
                ("first", {"node_address": "10.0.0.1", "node_port_url": "http://127.0.0.1:20387"}),
                ("node-2", {"node_address": "10.0.0.2", "node_port_url": "http://jump.example/"}),
                ("node-3", {"node_address": "10.0.0.3", "ingress_node_port": 30191}),
            ],
            {},
        )
    )  # type: ignore[no-untyped-call]
    with ctx_inventory.use(inventory):
        assert node_ports.published() == {
            "first": "http://127.0.0.1:20387",
            "10.0.0.1": "http://127.0.0.1:20387",
            "node-2": "http://jump.example/",
            "10.0.0.2": "http://jump.example/",
        }


@pytest.mark.parametrize("step", [scenario.proof, lambda name: scenario.manifests(name, present=False)])
def test_a_scenario_that_is_none_is_refused_with_those_that_there_are(step: Step) -> None:
    with pytest.raises(OperationValueError, match=r"there is no scenario 'canray'; there are: .*canary"):
        manifests(step=step, scenario="canray")


@both
def test_a_rule_that_no_proxy_can_be_compared_with_is_refused_by_file_and_field(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_parameters(_: Any, objects: list[dict[str, Any]], __: Any) -> None:
        rule = declared(objects, "DestinationRule")
        rule["spec"]["trafficPolicy"]["loadBalancer"] = {"simple": "RANDOM"}

    monkeypatch.setattr(CircuitBreaker, "set_parameters", set_parameters)
    said = r"circuit_breaker/manifests.yaml: DestinationRule circuit-breaker/httpbin: cannot compare .*loadBalancer"
    with pytest.raises(OperationValueError, match=said):
        manifests("circuit_breaker", step=step)
