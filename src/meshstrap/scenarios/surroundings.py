"""Where something was proved: what a person wants to know who looks at the evidence later."""

from __future__ import annotations

from typing import Any

from meshstrap.kube import proxy, query
from meshstrap.kube.errors import KubeError
from meshstrap.mesh import gateway, revision
from meshstrap.scenarios.site import Site


def note(site: Site, namespace: str) -> dict[str, Any]:
    """Note where it was proved: nodes, versions, the images that ran with their digests, and the events around it.

    Args:
        site: where.
        namespace: the scenario's; the pods noted are its and the gateway's.

    Returns:
        Plain data for the evidence file; `incomplete` says why the cluster did not tell the rest.
    """
    found: dict[str, Any] = {
        "cluster": site.cluster,
        "nodes": [{"name": node.name, "address": node.address, "url": node.url, "by": node.by} for node in site.nodes],
    }
    try:
        found["istio"] = _istio(site)
    except (KubeError, UnicodeDecodeError) as error:
        found["incomplete"] = f"Istio's version: {error}"
    try:
        found["kubernetes"] = site.client.version()
        pods = [pod for each in (gateway.NAMESPACE, namespace) for pod in query.list(site.client, "v1", "Pod", each)]
        found["images"] = {
            status["image"]: status.get("imageID", "")
            for pod in pods
            for key in ("containerStatuses", "initContainerStatuses")
            for status in pod.get("status", {}).get(key, [])
        }
        found["pods"] = [
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']} on {pod['spec'].get('nodeName', 'no node')}"
            for pod in pods
        ]
        found["events"] = [
            f"{event.get('lastTimestamp') or event.get('eventTime')} {event.get('type')} {event.get('reason')}"
            f" {event['involvedObject'].get('kind')}/{event['involvedObject'].get('name')}: {event.get('message')}"
            for event in query.list(site.client, "v1", "Event", namespace)
        ]
    except KubeError as error:
        found["incomplete"] = "; ".join(filter(None, (found.get("incomplete"), str(error))))
    return found


def _istio(site: Site) -> str:
    """Ask istiod for its version: labels of the charts say 1.0.0, and a tag is whatever a registry calls an image."""
    answer = proxy.get(site.client, "services", gateway.NAMESPACE, revision.istiod(site.revision), 15014, "/version")
    # `<version>-<commit>-<state of the sources>`. Source: istio.io/istio pkg/version, BuildInfo.String.
    return answer.decode().strip().rsplit("-", 2)[0]
