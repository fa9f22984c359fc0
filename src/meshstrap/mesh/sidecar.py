"""The sidecar that Istio injects: which images its pods get besides their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from meshstrap.bundle.check import Use
from meshstrap.mesh.errors import MeshError

INJECTOR = "istio-sidecar-injector"
_ANNOTATION = "sidecar.istio.io/proxyImage"


def images(objects: Iterable[Mapping[str, Any]], source: str) -> list[Use]:
    """Say which images the injection of a control plane adds to pods.

    Source: istio/istio pkg/kube/inject/inject.go (ProxyImage): `hub/image:tag`, with the variant behind the tag; an
    image with a slash in it is one already.

    Args:
        objects: What `istioctl manifest generate` prints.
        source: That command, for people.

    Returns:
        The proxy's and the init container's, for each control plane's injector.

    Raises:
        MeshError: An injector's values are none.
    """
    found = []
    for item in objects:
        name = str(item.get("metadata", {}).get("name"))
        if item.get("kind") != "ConfigMap" or not name.startswith(INJECTOR):
            continue
        place = f"the sidecar that ConfigMap/{item['metadata'].get('namespace')}/{name} injects, in {source}"
        try:
            values = json.loads(item["data"]["values"])["global"]
            for part in ("proxy", "proxy_init"):
                found.append(Use(place, _image(values, values[part]["image"]), values.get("imagePullPolicy") or ""))
        except (KeyError, TypeError, ValueError) as error:
            raise MeshError(f"{place}: its values cannot be read: {error!r}") from None
    return found


def of_pods(objects: Iterable[Mapping[str, Any]], source: str) -> list[Use]:
    """Say which proxy images pods ask for by their own annotation."""
    return [
        Use(f"{item.get('kind')}/{item['metadata'].get('name')} in {source}", annotations[_ANNOTATION])
        for item in objects
        for metadata in (item.get("metadata", {}), item.get("spec", {}).get("template", {}).get("metadata", {}))
        if _ANNOTATION in (annotations := metadata.get("annotations") or {})
    ]


def _image(values: Mapping[str, Any], image: str) -> str:
    if "/" in image:
        return image
    variant = f"-{values['variant']}" if values.get("variant") else ""
    return f"{values['hub']}/{image}:{values['tag']}{variant}"
