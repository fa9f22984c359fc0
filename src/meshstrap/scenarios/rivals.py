"""Others' objects that touch a scenario's hosts, pods or gateway, whether or not its traffic suffers yet. Pure.

Istio lets anybody say something about anybody's host, and says nothing where two do. So what stands beside a scenario
is named: on PASS as a warning, on any other verdict as what may be the cause. Who is no rival: the scenario's own
objects, and whatever carries this program's owner label or is part of Istio itself; and on a gateway whoever takes no
request of the same pods, port and host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from meshstrap.evidence.verdict import Verdict
from meshstrap.kube.plan import OWNER_LABEL
from meshstrap.mesh import gateway
from meshstrap.mesh.applies import covers, full_host, older, selector, to_callers_of, to_pod
from meshstrap.mesh.effects import effect
from meshstrap.mesh.lint import claims
from meshstrap.mesh.lint.finding import at, namespace_of, texts
from meshstrap.mesh.listeners import Listeners

Object = Mapping[str, Any]

# The kinds that are looked at, each in an API version that Istio 1.13 to the current one all serve.
KINDS = (
    ("networking.istio.io/v1beta1", "VirtualService"),
    ("networking.istio.io/v1beta1", "DestinationRule"),
    ("networking.istio.io/v1beta1", "Gateway"),
    ("networking.istio.io/v1beta1", "ServiceEntry"),
    ("networking.istio.io/v1beta1", "Sidecar"),
    ("networking.istio.io/v1alpha3", "EnvoyFilter"),
    ("security.istio.io/v1beta1", "AuthorizationPolicy"),
    ("security.istio.io/v1beta1", "PeerAuthentication"),
    ("security.istio.io/v1beta1", "RequestAuthentication"),
    ("telemetry.istio.io/v1alpha1", "Telemetry"),
    ("extensions.istio.io/v1alpha1", "WasmPlugin"),
)
# Those that change what proxies hold of routes, clusters and endpoints.
_ROUTING = ("VirtualService", "DestinationRule", "Gateway", "ServiceEntry", "Sidecar", "EnvoyFilter")
# What Istio's installers put on the objects of Istio itself.
_OF_ISTIO = ("install.operator.istio.io/owning-resource", "operator.istio.io/component")


@dataclass(frozen=True)
class Rival:
    """An object of somebody else that touches a scenario.

    Args:
        name: kind, namespace and name, as `VirtualService shop/web`.
        what: what it changes, as a predicate.
        inert: why the scenario's requests do not feel it today; empty where it is in force.
    """

    name: str
    what: str
    inert: str = ""

    @property
    def diverts(self) -> bool:
        """Whether it is in force and may keep proxies from ever holding what the scenario declares."""
        return not self.inert and self.name.startswith(_ROUTING)

    @property
    def text(self) -> str:
        """The rival as people read it."""
        return f"{self.name} {self.what}" + (f"; not felt today: {self.inert}" if self.inert else "")


@dataclass(frozen=True)
class Standing:
    """What a scenario stands on.

    Args:
        namespace: its own.
        declared: its objects.
        pods: the live pods of its namespace.
        gateway_pods: those of the ingress gateway, where it needs one.
        listeners: for each port of the gateway's Service the port of the pods behind it.
        addresses: the nodes' addresses, which are the Host of requests for the bare URL.
        root: the mesh's root namespace.
    """

    namespace: str
    declared: tuple[Object, ...]
    pods: tuple[Object, ...] = ()
    gateway_pods: tuple[Object, ...] = ()
    listeners: Mapping[int, int] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()
    root: str = gateway.NAMESPACE

    @property
    def hosts(self) -> tuple[str, ...]:
        """The full names of its Services."""
        services = [item for item in self.declared if item["kind"] == "Service"]
        return tuple(full_host(item["metadata"]["name"], namespace_of(item)) for item in services)


def find(standing: Standing, live: Iterable[Object]) -> list[Rival]:
    """Find what touches a scenario.

    Args:
        standing: what it stands on.
        live: all objects of `KINDS` on the cluster, the scenario's own among them.

    Returns:
        The rivals, those in force first, by name.
    """
    known = list(live)
    own = {_key(item) for item in standing.declared}
    view = _View(standing, [item for item in known if _key(item) in own], known)
    found = [
        rival
        for item in known
        if _key(item) not in own and not _of_the_house(item)
        for rival in _RULES.get(item["kind"], _for_pods)(item, view)
    ]
    return sorted(found, key=lambda rival: (bool(rival.inert), rival.name))


def told(verdict: Verdict, rivals: Iterable[Rival]) -> Verdict:
    """Name rivals in a verdict: on PASS as warnings; else those in force as what may be the cause, in the summary too.

    Args:
        verdict: as it was judged; its outcome stays.
        rivals: what `find` gave.
    """
    known = list(rivals)
    warnings = [f"warning: {rival.text}" for rival in known if verdict.passed or rival.inert]
    causes = [rival for rival in known if not verdict.passed and not rival.inert]
    if not causes:
        return replace(verdict, lines=(*verdict.lines, *warnings))
    named = ", ".join(rival.name for rival in causes)
    return replace(
        verdict,
        summary=f"{verdict.summary} (others' rules are in force here: {named})",
        lines=(*(f"may be the cause: {rival.text}" for rival in causes), *verdict.lines, *warnings),
    )


@dataclass(frozen=True)
class _View:
    """What a scenario stands on, its own objects as they live, and all that is there."""

    standing: Standing
    own: list[Object]
    live: list[Object]

    def mine(self, kind: str) -> list[Object]:
        return [item for item in self.own if item["kind"] == kind]

    def touched(self, hosts: Iterable[str]) -> list[str]:
        """Give those of the scenario's Services that hosts of a rule take."""
        named = list(hosts)
        return [host for host in self.standing.hosts if any(covers(each, host) for each in named)]

    @property
    def gateways(self) -> Listeners:
        return Listeners(
            [item for item in self.live if item["kind"] == "Gateway"],
            self.standing.gateway_pods,
            self.standing.listeners,
        )


def _virtual_service(item: Object, view: _View) -> list[Rival]:
    return [*_for_sidecars(item, view), *_at_the_gateway(item, view)]


def _for_sidecars(item: Object, view: _View) -> list[Rival]:
    """Judge a VirtualService for callers inside: of one host a proxy holds the oldest one's rules alone."""
    if not claims.for_sidecars(item) or not to_callers_of(item, view.standing.namespace):
        return []
    named = _hosts(item)
    touched = view.touched(named)
    reasons = []
    for host in touched:
        ours = [each for each in view.mine("VirtualService") if claims.for_sidecars(each) and host in _hosts(each)]
        if ours and host not in named:
            reasons.append(f"{_name(ours[0])} names the host itself")
        elif ours and older(ours[0], item):
            reasons.append(f"{_name(ours[0])} is older; the one that is deleted and made again becomes the younger")
        else:
            reasons.append("")
    if not touched:
        return []
    what = f"{effect(item)}, for host {', '.join(touched)} in the sidecars of its callers"
    return [Rival(_name(item), what, _all_inert(reasons))]


def _at_the_gateway(item: Object, view: _View) -> list[Rival]:
    """Judge a VirtualService on a gateway: a rival only on the same pods, port and host."""
    found: list[Rival] = []
    for ours in view.mine("VirtualService"):
        here, there = view.gateways.places(ours), view.gateways.places(item)
        shared = {host for _, host in here & there}
        asked = {
            host for port, host in there if host in view.standing.addresses and (port, "*") in here and host != "*"
        }
        for host in sorted(shared | asked):
            if compared := _compared(item, ours, host, by_host=host in asked):
                found.append(compared)
    return list(dict.fromkeys(found))


def _compared(item: Object, ours: Object, host: str, *, by_host: bool) -> Rival | None:
    """Say which requests of a host another VirtualService takes, and whether the scenario's are among them."""
    felt, unfelt = dict[str, str](), dict[str, str]()
    for _, match in claims.matches(item):
        for _, own in claims.matches(ours):
            if by_host:
                if claims.meets_any(match, own):
                    felt[claims.text(match)] = "its host is the narrower one"
            elif claims.meet(match, own):
                if older(item, ours):
                    felt[claims.text(match)] = f"older than {_name(ours)}"
                else:
                    unfelt[claims.text(match)] = (
                        f"{_name(ours)} is older; the one that is deleted and made again becomes the younger"
                    )
            elif claims.catches_all(own):
                if claims.takes_root(match):
                    felt[claims.text(match)] = f"narrower than {claims.text(own)} of {_name(ours)}"
                else:
                    unfelt[claims.text(match)] = "the proof sends no such request"
            elif claims.catches_all(match):
                unfelt[claims.text(match)] = f"{_name(ours)} is narrower"
    if not felt and not unfelt:
        return None
    told, why = (felt, "; ".join(dict.fromkeys(felt.values()))) if felt else (unfelt, "")
    what = f"takes {', '.join(told)} of host {host} too" + (f" ({why})" if why else "") + f", and {effect(item)}"
    return Rival(_name(item), what, "" if felt else "; ".join(dict.fromkeys(unfelt.values())))


def _gateway(item: Object, view: _View) -> list[Rival]:
    """Judge a Gateway: it is one where it opens the same port of the same pods for the same host."""
    opened = view.gateways.opened(item)
    taken = {place for ours in view.mine("VirtualService") for place in view.gateways.places(ours)}
    met = [server for port, host, server in opened for mine, name in taken if port == mine and covers(host, name)]
    if not met:
        return []
    plain = all(at(server, "port", "protocol") == "HTTP" and not at(server, "tls", "httpsRedirect") for server in met)
    reason = "both are HTTP, and share the port" if plain else ""
    return [Rival(_name(item), f"{effect(item)} on the same pods of the gateway", reason)]


def _destination_rule(item: Object, view: _View) -> list[Rival]:
    """Judge a DestinationRule: a caller takes the one of its own namespace, else the Service's, else the root's.

    Source: istio/istio pilot/pkg/model/push_context.go `destinationRule`, destination_rule.go `mergeDestinationRule`.
    """
    standing, namespace = view.standing, namespace_of(item)
    host = full_host(str(at(item, "spec", "host")), namespace)
    touched = view.touched([host])
    pods = (*standing.pods, *standing.gateway_pods)
    if not touched or (selector(item) and not any(to_pod(item, pod, standing.root) for pod in pods)):
        return []
    reasons = []
    for each in touched:
        ours = [
            rule
            for rule in view.mine("DestinationRule")
            if full_host(str(at(rule, "spec", "host")), namespace_of(rule)) == each
        ]
        reasons.append(_why_unfelt(item, host == each, ours[0] if ours else None, view))
    return [Rival(_name(item), f"{effect(item)}, for host {', '.join(touched)}", _all_inert(reasons))]


def _why_unfelt(item: Object, same: bool, ours: Object | None, view: _View) -> str:
    """Say why a DestinationRule is not felt; empty where it is."""
    namespace, root = namespace_of(item), view.standing.root
    private = at(item, "spec", "exportTo") == ["."]
    if namespace == root and private:
        return "" if view.standing.gateway_pods else f"it is for callers of namespace {namespace} alone"
    if not to_callers_of(item, view.standing.namespace) or namespace not in (view.standing.namespace, root):
        return f"it is for callers of namespace {namespace} alone"
    if ours is None:
        return ""
    if namespace != view.standing.namespace or not same:
        return f"{_name(ours)} is nearer"
    if older(item, ours) or selector(item):
        return ""
    if at(item, "spec", "trafficPolicy") and not at(ours, "spec", "trafficPolicy"):
        return ""
    return (
        f"{_name(ours)} is older, so that at most subsets of other names are added; the one that is deleted and made"
        " again becomes the younger"
    )


def _service_entry(item: Object, view: _View) -> list[Rival]:
    touched = view.touched(_hosts(item)) if to_callers_of(item, view.standing.namespace) else []
    if touched:
        return [Rival(_name(item), effect(item), "")]
    if selector(item) and any(to_pod(item, pod, "") for pod in view.standing.pods):
        return [Rival(_name(item), f"{effect(item)} and takes pods of the scenario in", "it is another host")]
    return []


def _for_pods(item: Object, view: _View) -> list[Rival]:
    """Judge what is for pods: policies, EnvoyFilters, Sidecars, Telemetry, plugins."""
    standing = view.standing
    here = [pod for pod in standing.pods if to_pod(item, pod, standing.root)]
    there = [] if item["kind"] == "Sidecar" else [p for p in standing.gateway_pods if to_pod(item, p, standing.root)]
    if not here and not there:
        return []
    reason = _unfelt[item["kind"]](item) if item["kind"] in _unfelt else ""
    if item["kind"] == "Telemetry" and not reason:
        return []
    names = [str(pod["metadata"]["name"]) for pod in here]
    whom = (f"pods {', '.join(names)}" if len(names) < len(standing.pods) else "all pods here") if here else ""
    both = " and ".join([*([whom] if whom else []), *(["the ingress gateway"] if there else [])])
    return [Rival(_name(item), f"{effect(item)}, for {both}", reason)]


def _mode(item: Object) -> str:
    modes = {at(item, "spec", "mtls", "mode")}
    ports = at(item, "spec", "portLevelMtls")
    modes |= {at(each, "mode") for each in ports.values()} if isinstance(ports, Mapping) else set()
    return "that is what Istio does by itself" if modes <= {None, "UNSET", "PERMISSIVE"} else ""


def _logs_as_well(item: Object) -> str:
    """Tell of a Telemetry object what no request feels; empty for one that only has requests logged.

    Whether it takes lines away is for `mesh.access_logging` to say.
    """
    return "no request is treated otherwise" if any(at(item, "spec", key) for key in ("metrics", "tracing")) else ""


_unfelt: dict[str, Callable[[Object], str]] = {
    "AuthorizationPolicy": lambda item: "it only audits" if at(item, "spec", "action") == "AUDIT" else "",
    "PeerAuthentication": _mode,
    "Telemetry": _logs_as_well,
}

_RULES: dict[str, Callable[[Object, _View], list[Rival]]] = {
    "VirtualService": _virtual_service,
    "DestinationRule": _destination_rule,
    "Gateway": _gateway,
    "ServiceEntry": _service_entry,
}


def _of_the_house(item: Object) -> bool:
    """Tell whether an object is this program's or Istio's own."""
    labels = item["metadata"].get("labels") or {}
    shared = (gateway.NAMESPACE, gateway.SHARED_GATEWAY_NAME)
    return (
        OWNER_LABEL in labels
        or any(label in labels for label in _OF_ISTIO)
        or (item["kind"] == "Gateway" and (namespace_of(item), item["metadata"]["name"]) == shared)
    )


def _all_inert(reasons: list[str]) -> str:
    """Give why a rule for several hosts is not felt; empty where it is felt on one of them."""
    return "; ".join(dict.fromkeys(reasons)) if all(reasons) else ""


def _hosts(item: Object) -> set[str]:
    """Give the hosts of a rule for callers inside, by their full names."""
    return {full_host(host, namespace_of(item)) for host in texts(at(item, "spec", "hosts"))}


def _key(item: Object) -> tuple[str, str, str]:
    return item["kind"], namespace_of(item), str(item["metadata"]["name"])


def _name(item: Object) -> str:
    return f"{item['kind']} {namespace_of(item)}/{item['metadata']['name']}"
