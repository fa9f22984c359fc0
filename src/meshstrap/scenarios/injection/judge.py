"""Judge who has a sidecar: observation to verdict, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh.gateway import PROXY
from meshstrap.scenarios.witnesses import replaced, sentences, weighed

CLIENTS = ("client-in", "client-out")
SERVERS = ("server-in", "server-out")
# Which workloads' pods have a sidecar.
SIDECAR = {"client-in": True, "client-out": False, "server-in": True, "server-out": False}

RULE = (
    "every pod of client-in and server-in has istio-proxy, among its containers or as a native sidecar (an init"
    " container that is always restarted), no pod of the other two; every request 200 with tomcat's page; each mark on"
    " exactly one line of each proxy on its way, and on none where there is no proxy"
)


def place_of_proxy(pod: Mapping[str, Any]) -> str:
    """Say where a pod has its proxy. Pure.

    Source: Kubernetes, "Sidecar containers" (KEP-753): an init container with restartPolicy Always runs beside the
    others; Istio uses it by itself from 1.27 on where the kubelet is 1.33 or newer.

    Returns:
        `native`, `container`, `init` for an init container that ends (no sidecar), or empty for none.
    """
    spec = pod["spec"]
    if any(container["name"] == PROXY for container in spec.get("containers", [])):
        return "container"
    for container in spec.get("initContainers") or []:
        if container["name"] == PROXY:
            return "native" if container.get("restartPolicy") == "Always" else "init"
    return ""


def seen_by(request: Mapping[str, Any]) -> list[str]:
    """Name the workloads whose proxies must have logged a request."""
    return [name for name in (request["client"], request["server"]) if SIDECAR[name]]


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: the control, which has the pods, and the one round as the scenario noted it.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS.
    """
    (series,) = observation["rounds"]
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}
    for request in series["requests"]:
        way = f"from {request['client']} to {request['server']}"
        wrong, lacks = _look(request, series)
        if wrong:
            failures.setdefault(f"{way} {wrong}", []).append(request["mark"])
        elif lacks:
            gaps.setdefault(f"{way} {lacks}", []).append(request["mark"])
    pods = observation["control"]["pods"]
    against = [*_misplaced(pods), *sentences(failures)]
    missing = list(sentences(gaps))
    if missing:
        missing = replaced(series["pods"], series["pods_after"]) + missing
    kinds = sorted({pod["proxy"] for pod in pods if pod["proxy"]})
    sound = not against and not missing
    asked = len(series["requests"])
    return weighed(
        against,
        missing,
        summary="client-in and server-in have a sidecar"
        f" ({' and '.join('native' if kind == 'native' else 'a container' for kind in kinds)}), client-out and"
        f" server-out none; {asked} of {asked} requests were answered"
        if sound
        else "",
        rule=RULE,
        lines=(
            "each proxy logged the requests of its own pod, in and out, once each, and no others",
            "control: from client-out to server-out, past the mesh: answered, and in no proxy's log",
        )
        if sound
        else (),
        numbers={"requests": asked, "proxies": {pod["pod"]: pod["proxy"] for pod in pods}},
    )


def _misplaced(pods: list[Mapping[str, Any]]) -> list[str]:
    found = []
    for pod in pods:
        if SIDECAR[pod["workload"]] and pod["proxy"] not in ("native", "container"):
            said = pod.get("refusal", "")
            why = f"{said} switches it off" if said else "restart it"
            found.append(f"pod {pod['pod']} has no sidecar, though its namespace asks for one; {why}")
        if not SIDECAR[pod["workload"]] and pod["proxy"]:
            found.append(f"pod {pod['pod']} has a sidecar ({pod['proxy']}), though its own label says no")
    return found


def _look(request: Mapping[str, Any], series: Mapping[str, Any]) -> tuple[str, str]:
    """Give what is wrong with a request and what is missing to judge it; both empty if nothing."""
    if not request["sent"]:
        return "", f"not sent: {request['error']}"
    if request["status"] is None:
        return f"got no answer: {request['error']}", ""
    if request["status"] != 200 or "Tomcat" not in request["body"]:
        return f"got {request['status']}, not tomcat's page", ""
    wanted = seen_by(request)
    for name in SIDECAR:
        lines = len(series["log"][name].get(request["mark"], []))
        if lines > (name in wanted):
            return f"left {lines} lines in the log of {name}'s proxy, not {int(name in wanted)}", ""
        if not lines and name in wanted:
            return "", f"left no line in the log of {name}'s proxy"
    return "", ""
