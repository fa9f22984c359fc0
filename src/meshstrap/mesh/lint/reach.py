"""Rules of whom a VirtualService reaches: gateways only, or sidecars that do not know of its hosts."""

from __future__ import annotations

from collections.abc import Iterator

from meshstrap.kube.ref import Ref
from meshstrap.mesh.lint import claims
from meshstrap.mesh.lint.finding import NETWORKING, Declared, Finding, Object, at, items, namespace_of, texts


def gateway_only(declared: Declared) -> Iterator[Finding]:
    """Find rules for a Service of the cluster that are bound to Gateways alone: pods do not go by them."""
    for index, item in declared.of("VirtualService", NETWORKING):
        if claims.for_sidecars(item):
            continue
        chosen = [
            number
            for number, rule in items(at(item, "spec", "http"))
            if len(items(rule.get("route"))) > 1
            or any(at(route, "destination", "subset") for _, route in items(rule.get("route")))
        ]
        for number, host in enumerate(texts(at(item, "spec", "hosts"))):
            service = declared.service(host, namespace_of(item))
            if service is not None and chosen:
                yield declared.finding(
                    "gateway-only",
                    index,
                    ("spec", "hosts", number),
                    f"{Ref.of(service)} is split for requests through {', '.join(sorted(claims.gateways(item)))} alone:"
                    " a pod that asks the Service is sent to any of its pods",
                    "gateways: [mesh, ...] for both; a host of the Gateway's own where pods shall not be split",
                    "istio.io, VirtualService: `gateways` without `mesh` apply to those gateways only",
                )


def hidden_hosts(declared: Declared) -> Iterator[Finding]:
    """Find a namespace's Sidecar that hides hosts which the namespace's own VirtualServices route."""
    for index, sidecar in declared.of("Sidecar", NETWORKING):
        egress = [entry for _, entry in items(at(sidecar, "spec", "egress"))]
        namespace = namespace_of(sidecar)
        if at(sidecar, "spec", "workloadSelector") or not egress or any(entry.get("port") for entry in egress):
            continue
        shown = [host for entry in egress for host in texts(entry.get("hosts"))]
        for other, item in declared.of("VirtualService", NETWORKING):
            if namespace_of(item) != namespace or not claims.for_sidecars(item):
                continue
            hidden = [
                host for host in _services(declared, item) if not any(_shows(each, host, namespace) for each in shown)
            ]
            if hidden:
                yield declared.finding(
                    "hidden-host",
                    index,
                    ("spec", "egress"),
                    f"the sidecars of namespace {namespace} do not know {', '.join(hidden)}, so {Ref.of(item)} does"
                    " nothing there: requests go past all rules",
                    f"egress hosts that show them: {', '.join(f'{_namespace(host)}/{host}' for host in hidden)}",
                    "istio.io, Sidecar: proxies get what `egress.hosts` show, and nothing else",
                    other,
                )


def _services(declared: Declared, item: Object) -> list[str]:
    """Give the hosts of a VirtualService that are declared Services, by their full names."""
    found = [declared.service(host, namespace_of(item)) for host in texts(at(item, "spec", "hosts"))]
    return [f"{each['metadata']['name']}.{namespace_of(each)}.svc.cluster.local" for each in found if each is not None]


def _namespace(host: str) -> str:
    return host.split(".")[1]


def _shows(pattern: str, host: str, own: str) -> bool:
    """Tell whether an egress host, `namespace/name`, shows a Service's full name."""
    namespace, _, name = pattern.partition("/")
    if namespace not in ("*", _namespace(host)) and not (namespace == "." and own == _namespace(host)):
        return False
    return name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))
