"""The engine's own part: what is retried and for how long, scenarios found by folder, objects and images."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from typing_extensions import override

from meshstrap.bundle import check
from meshstrap.evidence.verdict import Outcome
from meshstrap.kube.compare import Field
from meshstrap.kube.connect import Client, connect
from meshstrap.kube.plan import Change
from meshstrap.kube.ref import Ref
from meshstrap.mesh.proxy_config import declared_routes
from meshstrap.scenarios import engine, find, names
from meshstrap.scenarios.parameters import ParameterError
from meshstrap.scenarios.site import Clock, Node, Site


class Leap(Clock):
    """A clock that leaps over every pause."""

    def __init__(self) -> None:
        self.time = 0.0

    @override
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    @override
    def seconds(self) -> float:
        return self.time

    @override
    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


def site() -> Site:
    # Nothing here may ask a cluster: there is none.
    return Site(client=cast(Client, None), nodes=(), reports=Path("nowhere"), clock=Leap())


def test_converging_goes_on_until_nothing_differs() -> None:
    answers = [["a", "b"], ["b"], []]
    here = site()
    assert engine.converge(lambda: answers.pop(0), here) == []
    assert answers == []
    assert here.clock.seconds() == pytest.approx(2 * engine.CONVERGE_PAUSE)


def test_converging_ends_at_its_deadline_with_what_still_differs() -> None:
    here = site()
    assert engine.converge(lambda: ["gateway-1: holds 50 %"], here) == ["gateway-1: holds 50 %"]
    assert here.clock.seconds() == pytest.approx(engine.CONVERGE_SECONDS, abs=1)


def test_what_no_waiting_will_change_is_not_waited_for() -> None:
    here = site()
    assert engine.converge(lambda: ["holds none"], here, steady=15) == ["holds none"]
    assert here.clock.seconds() == pytest.approx(15, abs=1)
    # What still moves is waited for as ever.
    moving, here = itertools.count(), site()
    assert engine.converge(lambda: [str(next(moving))], here, steady=15)
    assert here.clock.seconds() == pytest.approx(engine.CONVERGE_SECONDS, abs=1)


def test_collecting_is_bounded() -> None:
    here = site()
    engine.collect(lambda: False, here)
    assert here.clock.seconds() == pytest.approx(engine.COLLECT_SECONDS, abs=1)
    answers = [False, False, True, True]
    engine.collect(lambda: answers.pop(0), here)
    assert answers == [True]


def test_scenarios_are_found_by_their_folders() -> None:
    assert "canary" in names()
    assert all(find(name).name == name for name in names())
    with pytest.raises(KeyError, match=r"there are: .*canary"):
        find("nonesuch")


@pytest.mark.parametrize("name", names())
def test_every_manifest_is_plain_yaml_in_its_own_namespace_on_the_shared_gateway(name: str) -> None:
    scenario = find(name)
    objects = list(yaml.safe_load_all(scenario.manifests.read_text()))
    assert objects == scenario.objects(scenario.parameters({}))
    assert objects[0]["kind"] == "Namespace" and objects[0]["metadata"]["name"] == scenario.namespace
    for item in objects[1:]:
        assert item["metadata"]["namespace"] == scenario.namespace
        assert item["kind"] != "Gateway"
        if item["kind"] == "VirtualService":
            assert item["apiVersion"] == "networking.istio.io/v1beta1"
            for rule in item["spec"]["http"]:
                assert len(rule["route"]) == 1 or sum(part["weight"] for part in rule["route"]) == 100
        if item["kind"] == "Service":
            assert all(port.get("name") for port in item["spec"]["ports"])


@pytest.mark.parametrize("name", names())
def test_images_are_those_of_the_objects_and_can_be_renamed(name: str) -> None:
    scenario = find(name)
    images = check.uses(scenario.objects(scenario.parameters({})), "manifests.yaml")
    assert images
    renamed = scenario.objects(scenario.parameters({}), image=lambda reference: f"registry.example/{reference}")
    text = yaml.safe_dump(renamed)
    assert all(f"image: registry.example/{image.reference}" in text for image in images)


def test_the_canarys_weight_is_set_on_the_objects_and_nowhere_else() -> None:
    scenario = find("canary")
    used = check.uses(scenario.objects({"weight": 20}), "manifests.yaml")
    assert [(use.reference, use.place) for use in used] == [
        ("xianchao/canary:v1", "Deployment/canary/appv1 in manifests.yaml"),
        ("xianchao/canary:v2", "Deployment/canary/appv2 in manifests.yaml"),
    ]
    twenty, default = scenario.objects({"weight": 20}), scenario.objects({"weight": 10})
    changed = [(a, b) for a, b in zip(twenty, default, strict=True) if a != b]
    assert [a["kind"] for a, _ in changed] == ["VirtualService"]
    routes: list[dict[str, Any]] = changed[0][0]["spec"]["http"][0]["route"]
    assert {each["destination"]["subset"]: each["weight"] for each in routes} == {"v1": 80, "v2": 20}


def test_a_namespace_asks_for_the_sidecars_of_the_sites_revision_and_never_by_two_labels() -> None:
    def labels(revision: str) -> dict[str, str]:
        objects = find("canary").objects({"weight": 10}, istio_revision=revision)
        found: dict[str, str] = engine.declared(objects, "Namespace")["metadata"]["labels"]
        return found

    assert labels("default") == {"istio-injection": "enabled"}
    assert labels("1-31") == {"istio.io/rev": "1-31"}


def test_the_canary_is_two_deployments_and_each_has_its_subset() -> None:
    objects = find("canary").objects({"weight": 10})
    deployments = [item for item in objects if item["kind"] == "Deployment"]
    assert [item["metadata"]["name"] for item in deployments] == ["appv1", "appv2"]  # the tutorial: appv1 twice
    subsets = {each["name"]: each["labels"] for each in engine.declared(objects, "DestinationRule")["spec"]["subsets"]}
    selector = engine.declared(objects, "Service")["spec"]["selector"]
    for item, version in zip(deployments, ("v1", "v2"), strict=True):
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert selector.items() <= labels.items()
        assert [name for name, wanted in subsets.items() if wanted.items() <= labels.items()] == [version]


def test_the_canarys_rules_can_be_compared_with_a_proxys() -> None:
    objects = find("canary").objects({"weight": 20})
    (route,) = declared_routes(engine.declared(objects, "VirtualService"), [engine.declared(objects, "Service")])
    host = "canary.canary.svc.cluster.local"
    assert route.clusters == ((f"outbound|80|v1|{host}", 80), (f"outbound|80|v2|{host}", 20))


def test_an_api_server_that_is_away_is_inconclusive_and_leaves_its_evidence(tmp_path: Path) -> None:
    kubeconfig = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {"token": "s3cr3t"}}],
    }
    client = connect(kubeconfig, patience=0.1)
    nodes = (Node("control-1", "192.0.2.10"),)
    proof = engine.prove(find("canary"), {"canary_weight": 20}, Site(client, nodes, tmp_path / "reports"))
    assert proof.verdict.outcome is Outcome.INCONCLUSIVE
    assert "127.0.0.1:1" in proof.verdict.summary and "connection refused" in proof.verdict.summary
    kept = json.loads(proof.report.read_text())
    assert kept["claim"] == "of the requests to http://<node>:<NodePort>/ 20 % reach v2 and 80 % reach v1"
    assert kept["verdict"]["outcome"] == "INCONCLUSIVE"
    assert kept["site"]["nodes"][0]["name"] == "control-1" and "incomplete" in kept["site"]
    assert "s3cr3t" not in proof.report.read_text()
    assert proof.lines[0].startswith("canary: INCONCLUSIVE: ")


def test_a_parameter_that_is_none_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        engine.prove(find("canary"), {"canary_weight": "ten"}, Site(cast(Client, None), (), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_kind_that_is_not_declared_once_is_refused() -> None:
    with pytest.raises(ValueError, match="declare 2 objects of kind Deployment"):
        engine.declared(find("canary").objects({"weight": 10}), "Deployment")


def test_what_the_server_could_not_compare_is_no_difference() -> None:
    ref = Ref("networking.istio.io/v1beta1", "VirtualService", "canary", "canary")
    away = Change(ref, "configured", error="failed calling webhook: connection refused (HTTP 500)")
    differs = Change(ref, "configured", fields=(Field("spec.http[0].route[0].weight", 50, 90),))
    immutable = Change(ref, "configured", error="field is immutable", immutable=True)
    absent = Change(ref, "created")
    held_by_another = Change(ref, "configured", note="same values; which fields are declared changes")
    drift, unknown = engine.compared([away, differs, immutable, absent, held_by_another])
    assert len(drift) == 3 and drift[2].endswith("is not there")
    assert len(unknown) == 1 and "connection refused" in unknown[0]
    assert "50 -> 90" in drift[0] and "immutable" in drift[1]
