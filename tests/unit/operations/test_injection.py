"""We test the decisions about injection: which labels change, and which pods are not as the labels say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pyinfra.api.exceptions import OperationValueError

from meshstrap.operations import injection


def pod(
    *,
    sidecar: str | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    host_network: bool = False,
    native: bool = True,
) -> dict[str, Any]:
    """Make a pod; sidecar is the revision that its sidecar says it is of."""
    proxy = [{"name": "istio-proxy", "image": "proxyv2"}] if sidecar is not None else []
    said = {"sidecar.istio.io/status": json.dumps({"revision": sidecar})} if sidecar else {}
    return {
        "metadata": {"name": "web", "labels": labels or {}, "annotations": {**(annotations or {}), **said}},
        "spec": {
            "hostNetwork": host_network,
            "containers": [{"name": "app", "image": "app"}, *([] if native else proxy)],
            "initContainers": proxy if native else [],
        },
    }


@pytest.mark.parametrize(
    ("labels", "revision", "changes"),
    [
        ({}, "default", {"istio-injection": "enabled"}),
        ({"istio-injection": "enabled"}, "default", {}),
        ({"istio-injection": "disabled"}, "default", {"istio-injection": "enabled"}),
        ({"istio.io/rev": "1-30"}, "default", {"istio-injection": "enabled", "istio.io/rev": None}),
        ({"istio-injection": "enabled"}, "1-31", {"istio-injection": None, "istio.io/rev": "1-31"}),
        ({"istio.io/rev": "1-30"}, "1-31", {"istio.io/rev": "1-31"}),
        ({"istio-injection": "enabled", "istio.io/rev": "1-31"}, "1-31", {"istio-injection": None}),
        ({"istio-injection": "enabled", "istio.io/rev": "x"}, "", {"istio-injection": None, "istio.io/rev": None}),
        ({"istio-injection": "disabled"}, "", {"istio-injection": None}),
        ({"team": "site"}, "", {}),
    ],
)
def test_one_label_decides_or_none(labels: dict[str, str], revision: str, changes: dict[str, str | None]) -> None:
    assert injection.label_changes(labels, revision) == changes


@pytest.mark.parametrize("native", [True, False])
def test_a_sidecar_counts_among_containers_and_init_containers(native: bool) -> None:
    with_sidecar = pod(sidecar="default", native=native)
    assert injection.complaint(with_sidecar, "default") == ""
    assert injection.complaint(with_sidecar, "") == "should lose its sidecar"


def test_a_pod_from_before_the_label_lacks_its_sidecar() -> None:
    assert injection.complaint(pod(), "default") == "lacks its sidecar"


def test_a_sidecar_of_another_revision_is_told() -> None:
    assert injection.complaint(pod(sidecar="1-30"), "1-31") == "has a sidecar of revision 1-30, not 1-31"


@pytest.mark.parametrize(
    "exempt",
    [
        pod(host_network=True),
        pod(labels={"sidecar.istio.io/inject": "false"}),
        pod(annotations={"sidecar.istio.io/inject": "false"}),
        pod(labels={"sidecar.istio.io/inject": "false"}, annotations={"sidecar.istio.io/inject": "true"}),
    ],
)
def test_a_pod_that_is_exempt_may_go_without(exempt: dict[str, Any]) -> None:
    assert injection.complaint(exempt, "default") == ""


def test_a_pods_label_goes_before_its_annotation() -> None:
    asked = pod(labels={"sidecar.istio.io/inject": "true"}, annotations={"sidecar.istio.io/inject": "false"})
    assert injection.complaint(asked, "default") == "lacks its sidecar"


def test_a_pod_may_ask_for_a_sidecar_where_the_namespace_does_not() -> None:
    assert injection.complaint(pod(sidecar="default", labels={"sidecar.istio.io/inject": "true"}), "") == ""
    assert injection.complaint(pod(sidecar="1-31", labels={"istio.io/rev": "1-31"}), "") == ""
    # An annotation alone does not reach the injector: its webhook selects by labels.
    assert injection.complaint(pod(sidecar="default", annotations={"sidecar.istio.io/inject": "true"}), "") != ""


def test_a_sidecar_tells_the_revision_that_a_tag_points_to() -> None:
    assert injection.complaint(pod(sidecar="1-31"), "prod", {"prod": "1-31"}) == ""
    assert injection.complaint(pod(sidecar="1-30"), "prod", {"prod": "1-31"}) == (
        "has a sidecar of revision 1-30, not 1-31"
    )
    # `istioctl tag set default`: the label istio-injection=enabled asks for it.
    assert injection.complaint(pod(sidecar="1-31"), "default", {"default": "1-31"}) == ""
    assert injection.complaint(pod(sidecar="1-31", labels={"istio.io/rev": "prod"}), "", {"prod": "1-31"}) == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"default": "no"}, "default must be True or False, not the text 'no'"),
        ({"default": "True"}, "default must be True or False, not the text 'True'"),
        ({"kube-system": True}, "injects nothing in kube-system"),
        ({"istio-system": False}, "injects nothing in istio-system"),
        ({"default": 1}, "must be True, False or the name of a revision"),
        ({"default": ""}, "must be True, False or the name of a revision"),
        ({"default": None}, "must be True, False or the name of a revision"),
        ({"default": "1.31"}, "injection: default must be of small letters, digits and dashes"),
        ({"default": 1.31}, "must be True, False or the name of a revision, not 1.31"),
        ({1: True}, "injection: 1 is no name of a namespace"),
        ({"Default": True}, "injection: 'Default' is no name of a namespace"),
        ({True: True}, "injection: True is no name of a namespace"),
        (["default"], "must name namespaces"),
        ("default", "must name namespaces"),
    ],
)
def test_bad_data_is_refused_by_name(data: Any, said: str) -> None:
    with pytest.raises(OperationValueError, match=said):
        injection.namespaces(data)


@pytest.mark.parametrize("revision", [1.31, 1, None, True, "", "1.31"])
def test_a_revision_that_is_none_is_refused_by_name(revision: Any) -> None:
    with pytest.raises(OperationValueError, match=r"^istio_revision must be "):
        injection.namespaces({"default": True}, revision=revision)
