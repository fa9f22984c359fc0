"""We test that a webhook which nobody will answer is told at once, with what brings it back; and that nothing else is
called so: not one that may come back, that is not asked for the object, or that the same run brings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from meshstrap.kube import webhooks
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import Plan, plan
from meshstrap.mesh import admission

from .objects import config_map, deployment, put, secret, service

Item = dict[str, Any]
PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@pytest.fixture
def webhook(client: Client, namespace: str) -> Iterator[str]:
    """A webhook that must admit Secrets of the namespace, of istio's set, whose Service nobody stands behind."""
    name = f"away-{namespace}"
    configuration: Item = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name, "labels": {"meshstrap.dev/owner": "istio"}},
        "webhooks": [
            {
                "name": "away.example.org",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 1,
                "clientConfig": {"service": {"name": "guard", "namespace": namespace}},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}
                ],
            }
        ],
    }
    put(client, service("guard", namespace), scaled(namespace, 0), configuration)
    yield f"guard.{namespace}.svc"
    client.request("DELETE", f"{PATH}/{name}")


def scaled(namespace: str, replicas: int) -> Item:
    item = deployment("guard", namespace)
    item["spec"]["replicas"] = replicas
    return item


def looked(client: Client, *objects: Item) -> tuple[Plan, tuple[webhooks.Away, ...]]:
    """Plan once the webhook is in force; the API server takes a moment to see a new configuration."""
    return webhooks.admitted(client, lambda asked: plan(asked, objects), seconds=0)


def in_force(client: Client, *objects: Item) -> tuple[webhooks.Away, ...]:
    deadline = time.monotonic() + 20
    while not (found := looked(client, *objects)[1]):
        assert time.monotonic() < deadline, "the webhook never came into force"
        time.sleep(0.2)
    return found


def test_a_webhook_that_is_scaled_to_0_is_told_at_once_with_what_brings_it_back(
    client: Client, namespace: str, webhook: str
) -> None:
    wanted = secret("one", namespace, a="b")
    (found,) = in_force(client, wanted)
    assert (found.service, found.owner, found.autoscaled) == (webhook, "istio", False)
    assert admission.next_steps([found]) == [
        f"the webhook of Service {namespace}/guard cannot answer: Deployment/{namespace}/guard is scaled to 0;"
        " run deploys/istio.py, which brings it back"
    ]
    # Not by waiting for the client's patience, object by object.
    began = time.monotonic()
    in_force(client, *(secret(f"no-{number}", namespace, a="b") for number in range(12)))
    assert time.monotonic() - began < client.patience / 2
    # An autoscaler's Deployment has no declared replicas that istio.py could put back.
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "guard", "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "guard"},
            "maxReplicas": 2,
        },
    }
    put(client, scaler)
    assert admission.next_steps(in_force(client, wanted))[0].endswith(
        f"; scale it up: kubectl scale deployment/guard -n {namespace} --replicas=1"
    )
    # What it does not admit is planned as ever, and so is what brings it back.
    made, away = looked(client, config_map("one", namespace, a="b"))
    assert (away, made.errors) == ((), ())
    assert looked(client, scaled(namespace, 1), wanted)[1] == ()


def test_a_webhook_without_service_or_workload_is_told(client: Client, namespace: str, webhook: str) -> None:
    wanted = secret("one", namespace, a="b")
    in_force(client, wanted)
    client.request("DELETE", f"/apis/apps/v1/namespaces/{namespace}/deployments/guard")
    assert in_force(client, wanted)[0].why.endswith("it has no Pod, and no workload makes one")
    client.request("DELETE", f"/api/v1/namespaces/{namespace}/services/guard")
    assert in_force(client, wanted)[0].why.endswith("there is no such Service")


def test_a_webhook_that_may_come_back_is_waited_for(client: Client, namespace: str, webhook: str) -> None:
    wanted = secret("one", namespace, a="b")
    in_force(client, wanted)
    put(client, scaled(namespace, 1))
    assert webhook not in [found.service for found in webhooks.away(client)]
    said: list[str] = []
    # The client's own patience is not what is tested here.
    patience, client.patience = client.patience, 0.0
    try:
        made, away = webhooks.admitted(
            client, lambda asked: plan(asked, [wanted]), seconds=2, sleep=lambda _: None, progress=said.append
        )
    finally:
        client.patience = patience
    assert away == ()
    assert webhooks.SILENT in str(made.changes[0].error)
    assert said and said[0].startswith(f"Secret/{namespace}/one: ")
