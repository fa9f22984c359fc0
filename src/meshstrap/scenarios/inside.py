"""Marked requests from a pod of the mesh, and what the proxies on their way say of each.

Three witnesses that know nothing of each other: what the client program got, the access log of the client's sidecar,
and those of the sidecars behind it. They are joined by the mark that each request carries in its query.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from meshstrap.kube import query
from meshstrap.kube.errors import KubeError
from meshstrap.mesh import access_log, cluster_config, gateway, injector, proxy, stats
from meshstrap.mesh.cluster_config import CLUSTERS, Policy
from meshstrap.mesh.errors import ProxyError
from meshstrap.mesh.proxy_config import (
    ENDPOINTS,
    ROUTES,
    endpoint_differences,
    sidecar_route_differences,
)
from meshstrap.scenarios import access_lines
from meshstrap.scenarios.site import Site

Pod = Mapping[str, Any]
Answer = TypeVar("Answer")

# One program run asks for all URLs in turn; between its answers stand a record and a unit separator. No option but what
# every busybox has: Debian's is built without -T, and crashes over it.
_SCRIPT = 'for url; do answer=$(wget -q -O - "$url" 2>&1); printf "%s\\037%s\\036" "$?" "$answer"; sleep "$PAUSE"; done'
_REFUSED = re.compile(r"server returned error: HTTP/\S+ (?P<status>\d{3})")
# CoreDNS hears of a new Service later than its pods are ready (its cache holds "no such name" for up to 30 s), and
# busybox then sends nothing: so long the first request of a series is asked for again. Nothing was sent by then.
_UNKNOWN_NAME = ("bad address", "no such host", "Name or service not known")
DNS_SECONDS = 35.0
_DNS_PAUSE = 1.0


@dataclass(frozen=True)
class Client:
    """A pod that asks, with busybox in one of its containers.

    Args:
        namespace: the pod's.
        labels: a selector that finds it, as `app=busybox`.
        container: the container with busybox.
    """

    namespace: str
    labels: str
    container: str


def pods(site: Site, namespace: str, labels: str) -> list[Pod]:
    """List the ready pods that a selector finds, by name."""
    return gateway.ready_pods(query.list(site.client, "v1", "Pod", namespace, labels=labels))


def names(found: Iterable[Pod]) -> list[str]:
    """List pods' names."""
    return [str(pod["metadata"]["name"]) for pod in found]


def missing(site: Site, namespace: str, workloads: Mapping[str, str], deploy: str) -> list[str]:
    """Look for what every proof from inside needs: the pods, each with its sidecar.

    Args:
        site: where.
        namespace: the scenario's.
        workloads: for each workload's name the selector of its pods.
        deploy: the scenario's deploy, for people.

    Returns:
        A sentence for each thing that is missing: a sidecar, a ready pod.
    """
    lacks = []
    for name, labels in workloads.items():
        found = pods(site, namespace, labels)
        if not found:
            lacks.append(f"namespace {namespace} has no ready pod of {name} ({labels}); run {deploy}")
        lacks += [injector.unproxied(pod, deploy) for pod in found if not gateway.has_sidecar(pod)]
    return lacks


def differences(
    site: Site,
    client: Client,
    virtual_services: Iterable[Mapping[str, Any]],
    services: Iterable[Mapping[str, Any]],
    endpoints: Mapping[str, set[str]],
) -> list[str]:
    """Compare what the callers' sidecars hold with what is declared.

    Args:
        site: where.
        client: whose sidecars; the namespace and labels of any caller (its container is not used).
        virtual_services: those that are for its requests, as declared.
        services: the declared Services that they are for and route to.
        endpoints: for each cluster the addresses, `address:port`, of the ready pods that belong to it.

    Returns:
        A sentence for each difference, with the pod's name in front; empty when all hold the declared content.
    """
    known = list(services)

    def look(pod: str) -> list[str]:
        routes = proxy.dump(site.client, client.namespace, pod, ROUTES)
        held = proxy.dump(site.client, client.namespace, pod, ENDPOINTS)
        here = [
            difference for each in virtual_services for difference in sidecar_route_differences(routes, each, known)
        ]
        return here + endpoint_differences(held, endpoints)

    return _of_each(site, client.namespace, client.labels, look)


def cluster_differences(site: Site, namespace: str, labels: str, declared: Mapping[str, Policy]) -> list[str]:
    """Compare how pods' proxies treat clusters with what is declared.

    Args:
        site: where.
        namespace: the pods'.
        labels: their selector.
        declared: for each cluster its policy, as `mesh.cluster_config` reads it from a DestinationRule.

    Returns:
        A sentence for each difference, with the pod's name in front; empty when all hold the declared content.
    """

    def look(pod: str) -> list[str]:
        return cluster_config.cluster_differences(proxy.dump(site.client, namespace, pod, CLUSTERS), declared)

    return _of_each(site, namespace, labels, look)


def way(site: Site, namespace: str, steps: Mapping[str, str]) -> str:
    """Follow a request inside of the mesh, from pod to Service to pod, by the live pods.

    Args:
        site: where.
        namespace: of all of them.
        steps: for each Service on the way the selector of its pods, the client's under an empty name first.
    """
    return " -> ".join(
        (f"Service {service} -> " if service else "") + (", ".join(names(pods(site, namespace, labels))) or "no pod")
        for service, labels in steps.items()
    )


def addresses(found: Iterable[Pod], port: int) -> set[str]:
    """Give pods' addresses as an Envoy endpoint spells them, `address:port`."""
    return {f"{pod['status']['podIP']}:{port}" for pod in found}


def send(
    site: Site, client: Client, urls: list[str], *, at_once: int = 1, timeout: float = 30.0, pause: float = 0.0
) -> list[dict[str, Any]]:
    """Send one marked request for each URL from the client's first ready pod, each once.

    Args:
        site: where.
        client: who asks.
        urls: what is asked for, without a query.
        at_once: how many ask beside each other; the first request is alone.
        timeout: seconds that each may take, on the whole: a client that takes longer is given up.
        pause: seconds after each.

    Returns:
        An observation a URL, in order: mark, pod, url, path, and status and body, or the error. `sent` is False for
        a request that never left, or of which nobody knows: a name that DNS does not know, a pod that could not be
        asked.
    """
    from meshstrap.kube.exec import execute  # As in mesh.proxy: only where a pod is asked.

    run = secrets.token_hex(8)
    marked = [
        {"mark": f"{run}-{index:04d}", "url": url, "path": f"{url}?{access_log.MARK}={run}-{index:04d}"}
        for index, url in enumerate(urls)
    ]
    callers = names(pods(site, client.namespace, client.labels))
    if not callers:
        return [each | _unsent(f"no ready pod {client.namespace}/{client.labels}") for each in marked]
    command = ["env", f"PAUSE={pause:g}", "sh", "-c", _SCRIPT, "ask"]

    def ask(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        argv = [*command, *(each["path"] for each in some)]
        try:
            done = execute(
                site.client,
                client.namespace,
                callers[0],
                client.container,
                argv,
                timeout=(timeout + pause) * len(some) + 15.0,
            )
        except KubeError as error:
            return [each | _unsent(f"the client could not be asked: {error}") for each in some]
        answers = [_read(text) for text in done.stdout.split("\036")[:-1]]
        answers += [_unsent(f"the client ended early: {done.stderr.strip()}")] * (len(some) - len(answers))
        return [each | {"pod": callers[0]} | answer for each, answer in zip(some, answers, strict=True)]

    first = until_known(site, lambda: ask(marked[:1]), lambda answers: str(answers[0]["error"]))
    rest = marked[1:]
    if not first[0]["sent"]:
        return first + [each | _unsent(f"the first request was not sent: {first[0]['error']}") for each in rest]
    shares = [rest[start::at_once] for start in range(min(at_once, len(rest)))]
    with ThreadPoolExecutor(max(1, len(shares))) as workers:
        answered = [answer for share in workers.map(ask, shares) for answer in share]
    return first + sorted(answered, key=lambda answer: str(answer["mark"]))


def until_known(site: Site, ask: Callable[[], Answer], error: Callable[[Answer], str]) -> Answer:
    """Ask again, for at most 35 s, while DNS does not know the name: then nothing was sent.

    Args:
        site: whose clock is used.
        ask: asks once.
        error: gives what the client program complained of, from its answer.

    Returns:
        The first answer to which DNS was no obstacle, or the last one.
    """
    deadline = site.clock.seconds() + DNS_SECONDS
    answer = ask()
    while _unknown(error(answer)) and site.clock.seconds() < deadline:
        site.clock.sleep(_DNS_PAUSE)
        answer = ask()
    return answer


def collect(site: Site, observed: dict[str, Any], watched: Mapping[str, tuple[str, str]]) -> bool:
    """Read the sidecars' access logs for the marks of a series.

    Args:
        site: where.
        observed: an observation with `began` (ISO time) and `requests`; its `log` is set: for each role, by mark, the
            lines with pod, cluster, code, flags, details and times. So is `pods_after`, the pods read, by role.
        watched: for each role (`client`, `nginx`) the namespace and the selector of its pods.

    Returns:
        Whether each request that was answered has a line of the first role, the client's, and, where that line names
        an upstream, one of another role.
    """
    read_lines(site, observed, watched)
    client, *servers = observed["log"].values()
    behind = set().union(*servers)
    return all(
        request["mark"] in client
        and (not any(line["upstream"] for line in client[request["mark"]]) or not servers or request["mark"] in behind)
        for request in observed["requests"]
        if request["status"] is not None
    )


def read_lines(site: Site, observed: dict[str, Any], watched: Mapping[str, tuple[str, str]]) -> None:
    """Read the sidecars' access logs as `collect` does, where there is no list of requests: by the run's mark.

    Args:
        site: where.
        observed: an observation as `access_lines.read` wants it; `log` and `pods_after` are set.
        watched: as in `collect`.
    """
    observed["log"], observed["pods_after"] = {}, {}
    for role, (namespace, labels) in watched.items():
        found = names(pods(site, namespace, labels))
        observed["pods_after"][role] = found
        observed["log"][role] = access_lines.read(site, namespace, found, observed)


def counters(site: Site, namespace: str, labels: str, wanted: Mapping[str, str]) -> dict[str, int | None]:
    """Read counters of pods' proxies, summed over the ready pods that a selector finds.

    Args:
        site: where.
        namespace: the pods'.
        labels: their selector.
        wanted: for each name of the answer the counter: `<cluster> <counter>`, as `outbound|80||x.y.svc.cluster.local
            upstream_rq_retry`; or the end of a name that several listeners have, as `.fault.aborts_injected`.

    Returns:
        The values; None for a counter that one of the proxies does not show, or that there is no proxy to show.
    """
    shown = [
        stats.parse(proxy.ask(site.client, namespace, name, "stats")) for name in names(pods(site, namespace, labels))
    ]

    def total(counter: str) -> int | None:
        cluster, _, name = counter.rpartition(" ")
        values = [stats.cluster_value(each, cluster, name) if cluster else stats.total(each, name) for each in shown]
        known = [value for value in values if value is not None]
        return sum(known) if known and len(known) == len(values) else None

    return {key: total(counter) for key, counter in wanted.items()}


def _of_each(site: Site, namespace: str, labels: str, look: Callable[[str], list[str]]) -> list[str]:
    """Look at each ready pod that a selector finds; that there is none, or that one does not tell, is told too."""
    found = names(pods(site, namespace, labels))
    differences = [] if found else [f"no ready pod {namespace}/{labels}"]
    for name in found:
        try:
            differences += [f"{name}: {difference}" for difference in look(name)]
        except ProxyError as error:
            differences.append(str(error))
    return differences


def _read(text: str) -> dict[str, Any]:
    """Read one answer of the script: busybox's exit code, and the body or what it complained of."""
    code, _, said = text.partition("\037")
    if code == "0":
        return {"status": 200, "body": said, "error": "", "sent": True}
    if refused := _REFUSED.search(said):
        return {"status": int(refused["status"]), "body": "", "error": "", "sent": True}
    return {"status": None, "body": "", "error": said.strip(), "sent": not _unknown(said)}


def _unknown(error: str) -> bool:
    return any(words in error for words in _UNKNOWN_NAME)


def _unsent(error: str) -> dict[str, Any]:
    return {"status": None, "body": "", "error": error, "sent": False}
