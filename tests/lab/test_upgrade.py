"""We test these aspects of an upgrade on the lab: the mesh moves to another revision, and not one request fails; a
second run changes nothing; it moves back; and where requests do fail meanwhile, it says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Deploy = Callable[..., Any]
Objects = Callable[..., dict[str, dict[str, Any]]]

OPERATION = "Istio's revision, moved under traffic"
REVISION = "1-31-again"
TO = ("--data", f"istio_revision={REVISION}", "--data", "istio_tag=1.31.0-again")
IN_ISTIO = ("-n", "istio-system")


@pytest.fixture(scope="module", autouse=True)
def canary(standing: Any, deploy: Deploy) -> Iterator[None]:
    """The canary, and afterwards the default revision alone, as site.py makes it."""
    try:
        made = deploy("canary")
        assert made.code == 0, made.said
        yield
    finally:
        back = deploy("upgrade", "--data", "prove=false")
        made = deploy("istio")
        assert (back.code, made.code) == (0, 0), back.said + made.said


def images(objects: Objects) -> set[str]:
    """Give the proxies' images of the canary and the gateways."""
    pods = [*objects("pods", "-n", "canary").values(), *objects("pods", *IN_ISTIO).values()]
    return {
        each["image"]
        for pod in pods
        for each in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        if each["name"] == "istio-proxy"
    }


def istiods(objects: Objects) -> list[str]:
    return [name for name in objects("deployments", *IN_ISTIO) if name.startswith("istiod")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("istio_tag=1.31", "istio_tag must be a tag of Istio's images"),
        ("istio_revision=1.31", "istio_revision must be the name of a revision"),
    ],
)
def test_bad_data_is_refused_before_anything_runs(deploy: Deploy, data: str, said: str) -> None:
    refused = deploy("upgrade", "--data", data)
    assert refused.code == 1
    assert said in refused.said
    assert "Starting operation" not in refused.said


def test_without_a_gateway_the_proof_cannot_be_made_and_nothing_is_touched(deploy: Deploy, objects: Objects) -> None:
    refused = deploy("upgrade", "--data", "istio_profile=minimal", *TO)
    assert (refused.code, refused.failed) == (1, [OPERATION]), refused.said
    assert "profile minimal has no ingress gateway" in refused.said
    assert "--data prove=false" in refused.said
    assert "Traceback" not in refused.said
    assert istiods(objects) == ["istiod"]


def test_the_mesh_moves_to_another_revision_without_losing_a_request(deploy: Deploy, objects: Objects) -> None:
    assert deploy("upgrade").changed == []
    dry = deploy("upgrade", "--dry", *TO)
    assert dry.planned == [OPERATION]
    assert f"created     Deployment/istio-system/istiod-{REVISION}" in dry.said
    assert "moved       Deployment/istio-system/istio-ingressgateway" in dry.said
    assert "deleted     Deployment/istio-system/istiod (revision default)" in dry.said
    assert istiods(objects) == ["istiod"], "--dry wrote"

    moved = deploy("upgrade", *TO, timeout=400)
    assert (moved.code, moved.changed) == (0, [OPERATION]), moved.said
    assert "upgrade: PASS: not one of " in moved.said
    assert istiods(objects) == [f"istiod-{REVISION}"]
    assert images(objects) == {"docker.io/istio/proxyv2:1.31.0-again"}
    assert objects("namespaces")["canary"]["metadata"]["labels"]["istio.io/rev"] == REVISION
    webhooks = [*objects("mutatingwebhookconfigurations"), *objects("validatingwebhookconfigurations")]
    assert sorted(name for name in webhooks if "istio" in name) == [
        f"istio-sidecar-injector-{REVISION}",
        f"istio-validator-{REVISION}-istio-system",
        "istiod-default-validator",
    ]

    again = deploy("upgrade", *TO)
    assert (again.code, again.changed) == (0, []), again.said
    assert deploy("istio", *TO).changed == []


def test_requests_that_fail_meanwhile_are_told_and_the_way_back_is_finished(
    deploy: Deploy, kubectl: Callable[..., str], objects: Objects
) -> None:
    def break_it() -> None:
        deadline = time.monotonic() + 120
        while "istiod" not in istiods(objects) and time.monotonic() < deadline:
            time.sleep(0.5)
        kubectl("delete", "virtualservice", "canary", "-n", "canary")

    breaking = threading.Thread(target=break_it)
    breaking.start()
    back = deploy("upgrade", timeout=400)
    breaking.join()
    assert (back.code, back.failed) == (1, [OPERATION]), back.said
    assert "upgrade: FAIL: " in back.said
    assert "got 404" in back.said
    # The mesh has moved all the same, and is as istio.py makes it.
    assert istiods(objects) == ["istiod"]
    assert images(objects) == {"docker.io/istio/proxyv2:1.31.0"}
    assert deploy("istio").changed == []
    put_back = deploy("canary")
    assert put_back.code == 0, put_back.said
    assert deploy("upgrade").changed == []
