"""We test which additions to a scenario's objects are drift: those that switch the mesh off, or another way."""

from __future__ import annotations

import pytest

from meshstrap.kube.ref import Ref
from meshstrap.mesh.decisive import decides

TEMPLATE = ("f:spec", "f:template", "f:metadata")


@pytest.mark.parametrize(
    ("api_version", "kind", "path", "expected"),
    [
        ("apps/v1", "Deployment", (*TEMPLATE, "f:annotations", "f:sidecar.istio.io/inject"), True),
        ("apps/v1", "Deployment", (*TEMPLATE, "f:labels", "f:istio.io/rev"), True),
        ("apps/v1", "Deployment", (*TEMPLATE, "f:annotations", "f:traffic.sidecar.istio.io/excludeInboundPorts"), True),
        ("apps/v1", "Deployment", (*TEMPLATE, "f:annotations", "f:kubectl.kubernetes.io/restartedAt"), False),
        ("apps/v1", "Deployment", (*TEMPLATE, "f:annotations"), False),
        ("apps/v1", "Deployment", ("f:spec", "f:template", "f:spec", "f:hostNetwork"), True),
        ("apps/v1", "Deployment", ("f:spec", "f:template", "f:spec", "f:nodeSelector"), False),
        ("v1", "Namespace", ("f:metadata", "f:labels", "f:istio-injection"), True),
        ("v1", "Namespace", ("f:metadata", "f:labels", "f:team"), False),
        ("v1", "Service", ("f:metadata", "f:annotations", "f:networking.istio.io/exportTo"), True),
        ("v1", "Service", ("f:spec", "f:sessionAffinity"), False),
        ("networking.istio.io/v1", "VirtualService", ("f:spec", "f:exportTo"), True),
        ("networking.istio.io/v1", "VirtualService", ("f:metadata", "f:labels", "f:team"), False),
    ],
)
def test_additions_that_decide(api_version: str, kind: str, path: tuple[str, ...], expected: bool) -> None:
    assert decides(Ref(api_version, kind, "x", "y"), path) is expected
