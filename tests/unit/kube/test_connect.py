"""What the API server's answers mean, without a server; the rest is in the api tier."""

from __future__ import annotations

import json

import pytest

from meshstrap.kube.connect import _refusal, _transient, supported
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import ApiError, KubeError, UnsupportedVersion
from meshstrap.kube.exec import exit_code
from meshstrap.kube.plan import conflicts_in, words
from meshstrap.kube.ref import Ref
from meshstrap.kube.stages import stages


@pytest.mark.parametrize(
    ("status", "message", "again"),
    [
        (429, "too many requests", True),
        (502, "<html>Bad gateway</html>", True),
        (503, "apiserver is shutting down", True),
        (500, "etcdserver: leader changed", True),
        (500, "etcdserver: request timed out", True),
        (500, 'failed calling webhook "a.b": connect: connection refused', True),
        (500, 'failed calling webhook "a.b": dial tcp 10.96.103.43:443: connect: no route to host', True),
        (500, 'failed calling webhook "a.b": no endpoints available for service "istiod"', True),
        (500, ".spec.x: field not declared in schema", False),
        (400, 'admission webhook "a.b" denied the request', False),
        (403, "exceeded quota", False),
        (404, "not found", False),
        (409, "conflict", False),
        (422, "invalid", False),
    ],
)
def test_what_is_worth_another_try(status: int, message: str, again: bool) -> None:
    assert _transient(ApiError(status, "", message)) is again


def test_a_refusal_that_is_no_status_object() -> None:
    assert str(_refusal(502, b"<html>Bad gateway</html>")) == "<html>Bad gateway</html> (HTTP 502)"
    assert str(_refusal(500, b"")) == "no explanation (HTTP 500)"
    assert str(_refusal(400, b"[1]")) == "[1] (HTTP 400)"
    answer = {"message": "no", "code": 400}
    assert str(_refusal(400, json.dumps(answer).encode())) == "no (HTTP 400)"


def test_credentials_that_are_not_accepted() -> None:
    answer = json.dumps({"reason": "Unauthorized", "message": "Unauthorized"}).encode()
    assert "does not accept the kubeconfig's credentials" in str(_refusal(401, answer))


def test_who_holds_what() -> None:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl-edit" using apps/v1 at 2026-11-23T12:00:00Z',
            "field": ".spec.replicas",
        },
        {"reason": "FieldManagerConflict", "message": 'conflict with "helm" using v1', "field": ".data.a"},
        {"reason": "Other", "message": "x", "field": ".y"},
    ]
    error = ApiError(409, "Conflict", "two conflicts", details={"causes": causes})
    found = conflicts_in(error)
    assert not any(one.foreign for one in conflicts_in(error, ["helm"]))
    assert error.conflict
    assert [(one.manager, one.field, one.foreign) for one in found] == [
        ("kubectl-edit", ".spec.replicas", False),
        ("helm", ".data.a", True),
    ]
    assert not ApiError(409, "AlreadyExists", "there").conflict


def test_secrets_are_not_quoted() -> None:
    body = {"kind": "Secret", "data": {"a": "c2VjcmV0LXZhbHVl", "n": 42, "l": ["x1y2z3"]}, "stringData": {"b": 'q"uo'}}
    for text in ("secret-value", "c2VjcmV0LXZhbHVl", "42", "x1y2z3", 'q"uo', 'q\\"uo'):
        assert words(KubeError(f"cannot use {text} here"), body) == "cannot use *** here"
    # A decoder that stumbles quotes pieces.
    assert words(ApiError(400, "BadRequest", "in ...|VjcmV0LX|..."), body) == (
        "refused (HTTP 400 BadRequest); the server's words quote the Secret and are not shown"
    )
    assert words(KubeError("secret-value"), {"kind": "ConfigMap", "data": {"a": "secret-value"}}) == "secret-value"


def test_paths() -> None:
    assert Resource("v1", "Pod", "pods", True).path("a b", "c") == "/api/v1/namespaces/a%20b/pods/c"
    assert Resource("apps/v1", "Deployment", "deployments", True).path() == "/apis/apps/v1/deployments"
    role = Resource("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", False)
    assert role.path("ignored", "system:node") == "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node"


def test_stages() -> None:
    kinds = [
        "MutatingWebhookConfiguration",
        "Deployment",
        "ConfigMap",
        "VirtualService",
        "ClusterRole",
        "Namespace",
        "Job",
        "CustomResourceDefinition",
    ]
    refs = [Ref("x/v1", kind, "", "n") for kind in kinds]
    scope = {"ClusterRole", "Namespace", "MutatingWebhookConfiguration", "CustomResourceDefinition"}
    resources = {ref: Resource("x/v1", ref.kind, "p", ref.kind not in scope) for ref in refs}
    assert [[ref.kind for ref in stage] for stage in stages(refs, resources)] == [
        ["Namespace", "CustomResourceDefinition"],
        ["ClusterRole"],
        ["ConfigMap", "VirtualService"],
        ["Deployment", "Job"],
        ["MutatingWebhookConfiguration"],
    ]
    assert stages([], {}) == []


def test_exit_codes() -> None:
    assert exit_code({"status": "Success"}) == 0
    failed = {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    }
    assert exit_code(failed) == 7
    with pytest.raises(ApiError, match="no such program"):
        exit_code({"status": "Failure", "reason": "InternalError", "message": "no such program", "code": 500})


def test_versions() -> None:
    def answer(minor: str) -> dict[str, str]:
        return {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.3"}

    assert supported(answer("34"), "here") == "v1.34.3"
    assert supported(answer("22+"), "here") == "v1.22+.3"
    with pytest.raises(UnsupportedVersion, match=r"here runs Kubernetes v1\.21\.3; server-side apply needs 1\.22"):
        supported(answer("21"), "here")
