"""What an object of Istio changes, in a few words for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshstrap.mesh.lint.finding import at, items, texts

Object = Mapping[str, Any]

# Of a VirtualService's http rule, besides where requests go.
_RULE = ("timeout", "retries", "mirror", "mirrors", "redirect", "rewrite", "directResponse", "headers", "delegate")


def effect(item: Object) -> str:
    """Say what an object does to the requests, hosts or pods that it is for.

    Args:
        item: an object of networking, security, telemetry or extensions.istio.io.

    Returns:
        A predicate, such as `aborts 60 % with 503 and sends the rest to httpbin`.
    """
    words: dict[str, Callable[[Object], str]] = {
        "VirtualService": _virtual_service,
        "DestinationRule": _destination_rule,
        "Gateway": _gateway,
        "ServiceEntry": _service_entry,
        "Sidecar": _sidecar,
        "EnvoyFilter": _envoy_filter,
        "AuthorizationPolicy": _authorization_policy,
        "PeerAuthentication": _peer_authentication,
        "RequestAuthentication": lambda spec: "refuses requests with a token that it does not know",
        "Telemetry": _telemetry,
        "WasmPlugin": lambda spec: f"runs the plugin {at(spec, 'url')} in the proxies",
    }
    spec = item.get("spec")
    return words[item["kind"]](spec if isinstance(spec, Mapping) else {})


def _virtual_service(spec: Object) -> str:
    said = [text for _, rule in items(spec.get("http")) if (text := _rule(rule))]
    said += [f"routes {protocol}" for protocol in ("tls", "tcp") if spec.get(protocol)]
    return "; ".join(dict.fromkeys(said)) or "has no rule"


def _rule(rule: Object) -> str:
    said = []
    abort, delay = at(rule, "fault", "abort"), at(rule, "fault", "delay")
    if isinstance(abort, Mapping):
        status = abort.get("httpStatus") or abort.get("grpcStatus") or abort.get("http2Error")
        said.append(f"aborts {_percent(abort)} with {status}")
    if isinstance(delay, Mapping):
        said.append(f"delays {_percent(delay)} by {delay.get('fixedDelay') or delay.get('exponentialDelay')}")
    said += [f"sets {key}" for key in _RULE if key in rule]
    targets = [
        f"{at(entry, 'destination', 'host')}"
        + (f" subset {subset}" if (subset := at(entry, "destination", "subset")) else "")
        + (f" ({weight} %)" if (weight := entry.get("weight")) is not None else "")
        for _, entry in items(rule.get("route"))
    ]
    return " and ".join(said + ([f"sends to {', '.join(targets)}"] if targets else []))


def _percent(fault: Object) -> str:
    value = at(fault, "percentage", "value")
    if value is None:
        # The old field is a whole number; a `percentage` without a value is none.
        value = fault.get("percent", 0 if "percentage" in fault else 100)
    return f"{value:g} %" if isinstance(value, int | float) else f"{value} %"


def _destination_rule(spec: Object) -> str:
    policy = spec.get("trafficPolicy")
    subsets = [str(each.get("name")) for _, each in items(spec.get("subsets"))]
    said = [f"sets {', '.join(sorted(policy))}"] if isinstance(policy, Mapping) and policy else []
    said += [f"defines subset{'s' * (len(subsets) > 1)} {', '.join(subsets)}"] if subsets else []
    return " and ".join(said) or "sets nothing"


def _gateway(spec: Object) -> str:
    servers = [
        f"port {at(server, 'port', 'number')} ({at(server, 'port', 'protocol')}) for {_list(server.get('hosts'))}"
        for _, server in items(spec.get("servers"))
    ]
    return f"opens {'; '.join(servers)}" if servers else "opens nothing"


def _service_entry(spec: Object) -> str:
    endpoints = [str(each.get("address")) for _, each in items(spec.get("endpoints"))]
    behind = f" with endpoints {', '.join(endpoints)}" if endpoints else ""
    return f"declares host {_list(spec.get('hosts'))} ({spec.get('resolution') or 'NONE'}){behind}"


def _sidecar(spec: Object) -> str:
    seen = [host for _, each in items(spec.get("egress")) for host in texts(each.get("hosts"))]
    said = [f"lets pods see {_list(seen)} only"] if seen else []
    said += ["replaces what is listened on"] if spec.get("ingress") else []
    said += [f"sets {key}" for key in ("outboundTrafficPolicy", "inboundConnectionPool") if key in spec]
    return " and ".join(said) or "narrows what pods see"


def _envoy_filter(spec: Object) -> str:
    patched = [str(patch.get("applyTo")) for _, patch in items(spec.get("configPatches"))]
    return f"patches the proxies' {_list(dict.fromkeys(patched))}" if patched else "patches nothing"


def _authorization_policy(spec: Object) -> str:
    action, rules = str(spec.get("action") or "ALLOW"), items(spec.get("rules"))
    if action == "ALLOW" and not rules:
        return "refuses everything (ALLOW without a rule)"
    words = {
        "ALLOW": "lets through only what its rules name",
        "DENY": "refuses what its rules name",
        "AUDIT": "audits what its rules name",
        "CUSTOM": f"asks {at(spec, 'provider', 'name')} whether to let requests through",
    }
    return f"{words.get(action, action)} ({action}, {len(rules)} rule{'s' * (len(rules) != 1)})"


def _peer_authentication(spec: Object) -> str:
    ports = spec.get("portLevelMtls")
    modes = [f"mTLS {at(spec, 'mtls', 'mode') or 'UNSET'}"]
    if isinstance(ports, Mapping):
        modes += [f"port {port} {at(each, 'mode')}" for port, each in ports.items()]
    return f"has pods take {', '.join(modes)}"


def _telemetry(spec: Object) -> str:
    return f"configures {_list([key for key in ('accessLogging', 'metrics', 'tracing') if spec.get(key)])}"


def _list(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, Iterable) and names else "nothing"
