"""We test that labels and annotations are read as Istio's injector and its webhooks read them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.mesh import injector

TEXTS = st.text(alphabet="yesntrufalo01 ", max_size=5)


def pod(labels: dict[str, str], annotations: dict[str, str], *, host_network: bool = False) -> dict[str, Any]:
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": {"hostNetwork": host_network}}


@pytest.mark.parametrize("text", ["y", "yes", "true", "on", "True", "YES", "On"])
def test_these_texts_ask_for_a_sidecar_in_any_case_of_letters(text: str) -> None:
    assert injector.says({"annotations": {injector.INJECT: text}}) is True
    assert injector.wanted(pod({}, {injector.INJECT: text}), "default") == "default"


@pytest.mark.parametrize("text", ["false", "False", "no", "off", "n", "0", "1", "enabled", "never", "yes "])
def test_every_other_text_refuses_it(text: str) -> None:
    assert injector.says({"labels": {injector.INJECT: text}}) is False
    assert injector.wanted(pod({injector.INJECT: text}, {}), "default") == ""


def test_an_empty_text_or_none_leaves_it_to_the_namespace() -> None:
    assert injector.says({}) is None
    assert injector.says({"labels": None, "annotations": {injector.INJECT: ""}}) is None
    assert injector.wanted(pod({injector.INJECT: ""}, {}), "1-31") == "1-31"
    assert injector.wanted(pod({}, {}), "") == ""


@given(label=TEXTS, annotation=TEXTS)
def test_the_label_goes_before_the_annotation(label: str, annotation: str) -> None:
    both = {"labels": {injector.INJECT: label}, "annotations": {injector.INJECT: annotation}}
    assert injector.says(both) == injector.says({"labels": {injector.INJECT: label}})


@pytest.mark.parametrize(("text", "revision"), [("true", "default"), ("True", ""), ("yes", ""), ("on", "")])
def test_without_a_namespaces_label_the_webhook_selects_one_text_alone(text: str, revision: str) -> None:
    assert injector.wanted(pod({injector.INJECT: text}, {}), "") == revision
    assert injector.wanted(pod({}, {injector.INJECT: text}), "") == ""


def test_a_pods_own_revision_counts_where_its_namespace_asks_for_none() -> None:
    assert injector.wanted(pod({injector.REVISION: "1-31"}, {}), "") == "1-31"
    assert injector.wanted(pod({injector.REVISION: "1-31"}, {}), "1-30") == "1-30"
    assert injector.wanted(pod({injector.REVISION: "1-31", injector.INJECT: "no"}, {}), "") == ""


def test_a_pod_of_the_hosts_network_gets_none() -> None:
    assert injector.wanted(pod({injector.INJECT: "true"}, {}, host_network=True), "default") == ""


def test_a_tag_points_to_the_revision_of_its_webhook() -> None:
    webhooks: list[dict[str, Any]] = [
        {"metadata": {"labels": {"istio.io/rev": "1-31", "istio.io/tag": "prod"}}},
        {"metadata": {"labels": {"istio.io/rev": "1-31"}}},
        {"metadata": {}},
    ]
    assert injector.tags(webhooks) == {"prod": "1-31"}


def made_by(owner: str, name: str, **metadata: Any) -> dict[str, Any]:
    owners = [{"kind": owner, "name": name, "controller": True}]
    return {"metadata": {"name": "web-1", "namespace": "x", "ownerReferences": owners, **metadata}, "spec": {}}


def test_what_switches_a_sidecar_off_is_named_with_its_workload() -> None:
    labels = {"pod-template-hash": "5b4"}
    by_annotation = made_by("ReplicaSet", "my-web-5b4", labels=labels, annotations={injector.INJECT: "false"})
    said = 'annotation sidecar.istio.io/inject: "false" of the pod template of Deployment my-web'
    assert injector.refusal(by_annotation) == said
    assert said in injector.unproxied(by_annotation, "deploys/x.py")
    assert "label the namespace" not in injector.unproxied(by_annotation, "deploys/x.py")
    by_label = made_by("StatefulSet", "data", labels={injector.INJECT: "no"})
    assert injector.refusal(by_label) == 'label sidecar.istio.io/inject: "no" of the pod template of StatefulSet data'
    silent = made_by("ReplicaSet", "my-web-5b4", labels=labels)
    assert injector.refusal(silent) == ""
    assert "label the namespace" in injector.unproxied(silent, "deploys/x.py")
