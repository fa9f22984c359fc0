"""What can go wrong when the mesh is asked, in words that name the object and what to do."""

from __future__ import annotations


class MeshError(Exception):
    """Anything this package raises on purpose; its text is fit for a person."""


class ProxyError(MeshError):
    """A proxy that did not answer as it should: names the pod and what it said."""


class GatewayError(MeshError):
    """An ingress gateway that is not there or not reachable from outside: names the Service."""
