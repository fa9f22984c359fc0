"""We test what of a cluster is Istio's, the command of each version, and whose objects would go."""

from __future__ import annotations

from typing import Any

import pytest

from meshstrap.mesh import removal, revision


def item(kind: str, name: str, namespace: str = "", **labels: str) -> dict[str, Any]:
    keys = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": keys}}


@pytest.mark.parametrize(
    ("version", "control_plane", "arguments"),
    [
        ("1.13.9", None, "experimental uninstall --purge --skip-confirmation"),
        ("1.14.6", "default", "experimental uninstall --revision default --skip-confirmation"),
        ("1.15.0", "default", "uninstall --revision default --skip-confirmation"),
        ("1.31.0", None, "uninstall --purge --skip-confirmation"),
        ("1.31.0", "1-31", "uninstall --revision 1-31 --skip-confirmation"),
    ],
)
def test_each_version_has_its_command(version: str, control_plane: str | None, arguments: str) -> None:
    assert " ".join(removal.command(version, control_plane)) == arguments


@pytest.mark.parametrize(
    ("found", "is_istios"),
    [
        (item("ClusterRole", "istiod-clusterrole-istio-system", app="istiod"), True),
        (item("ClusterRole", "x", app_kubernetes_io__part_of="istio"), False),
        ({"kind": "ClusterRole", "metadata": {"name": "x", "labels": {"app.kubernetes.io/part-of": "istio"}}}, True),
        (item("MutatingWebhookConfiguration", "istio-revision-tag-prod", istio_io__rev="1-31"), True),
        (item("ClusterRole", "theirs", istio_io__rev="1-31"), False),
        (item("ClusterRole", "istio-readers-of-ours"), False),
        ({"kind": "ClusterRole", "metadata": {"name": "bare"}}, False),
    ],
)
def test_what_is_istios_is_told_by_its_labels(found: dict[str, Any], is_istios: bool) -> None:
    assert removal.is_istios(found) is is_istios


@pytest.mark.parametrize(
    ("group", "is_istios"),
    [
        ("networking.istio.io", True),
        ("security.istio.io", True),
        ("gateway.networking.k8s.io", False),
        ("x.y.io", False),
    ],
)
def test_istios_kinds_are_told_by_their_group(group: str, is_istios: bool) -> None:
    assert removal.is_istios_kind({"spec": {"group": group}}) is is_istios


def test_others_objects_are_named_unless_their_namespace_is_given_up() -> None:
    ours = item("VirtualService", "canary", "canary", meshstrap_dev__owner="canary")
    theirs = item("VirtualService", "web", "shop")
    neighbour = item("Deployment", "kiali", "istio-system")
    istiod = item("Deployment", "istiod", "istio-system", operator_istio_io__component="Pilot")
    every = [ours, theirs, neighbour, istiod]
    assert removal.foreign([item("PeerAuthentication", "default", "istio-system")], []) != []
    assert removal.foreign(every, []) == ["Deployment/istio-system/kiali", "VirtualService/shop/web"]
    assert removal.foreign(every, ["shop"]) == ["Deployment/istio-system/kiali"]
    assert removal.foreign(every, ["shop", "istio-system"]) == []


def test_a_gateway_by_injection_cannot_live_without_the_injector() -> None:
    pod = {"metadata": {"annotations": {"inject.istio.io/templates": "gateway"}}}
    assert "injector makes" in removal.needs_injector(pod)
    assert removal.needs_injector({"metadata": {"annotations": {"inject.istio.io/templates": "sidecar"}}}) == ""
    assert removal.needs_injector({"metadata": {}}) == ""


def test_revisions_are_those_of_control_planes_and_injectors() -> None:
    found = [item("Deployment", "istiod", istio_io__rev="default"), item("Deployment", "b", istio_io__rev="1-31")]
    assert removal.revisions([*found, *found, item("Deployment", "c")]) == ["1-31", "default"]


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        ({"istio-injection": "enabled"}, "default"),
        ({"istio-injection": "disabled"}, ""),
        ({"istio.io/rev": "1-31"}, "1-31"),
        ({"istio-injection": "enabled", "istio.io/rev": "1-31"}, "default"),
        ({}, ""),
    ],
)
def test_a_namespaces_labels_ask_for_one_revision(labels: dict[str, str], asked: str) -> None:
    assert revision.injected(labels) == asked
    assert removal.injected(labels) == list(labels)
