"""Rules of a Service's ports: the protocol that Istio reads from their names."""

from __future__ import annotations

from collections.abc import Iterator

from meshstrap.kube.ref import Ref
from meshstrap.mesh.lint.finding import NETWORKING, Declared, Finding, Object, at, items, namespace_of, texts, whole

# istio/istio pkg/config/protocol/instance.go (Parse, IsHTTP) and pkg/config/kube/conversion.go.
HTTP = {"http", "http2", "http_proxy", "grpc", "grpc-web"}
OPAQUE = {"tcp", "tls", "https", "mongo", "mysql", "redis", "udp"}
# An application protocol of Kubernetes' own names, which Istio reads as HTTP/2 and HTTP.
STANDARD = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}
# Servers that speak first: Istio does not wait for the client's first bytes there, and reads them as TCP.
SERVER_FIRST = {25, 53, 3306, 27017}


def undeclared_protocol(declared: Declared) -> Iterator[Finding]:
    """Find a port that says nothing of its protocol."""
    for index, service in declared.of("Service"):
        for number, port in items(at(service, "spec", "ports")):
            if port.get("name") or port.get("appProtocol") or port.get("protocol") not in (None, "TCP"):
                continue
            if whole(port.get("port")) in SERVER_FIRST or at(service, "spec", "type") == "ExternalName":
                continue
            yield declared.finding(
                "port-name",
                index,
                ("spec", "ports", number),
                f"port {port.get('port')} has no name, so Istio guesses the protocol from each connection's first"
                " bytes: routes, faults and statistics of HTTP depend on the guess",
                "name: http (or http2-, grpc-, tcp-...), or appProtocol",
                "istio.io, Protocol Selection; `istioctl analyze` has it as a mere information, IST0118 (K3)",
            )


def opaque_protocol(declared: Declared) -> Iterator[Finding]:
    """Find HTTP rules for a Service whose ports are declared to be anything but HTTP."""
    for index, item in declared.of("VirtualService", NETWORKING):
        gateways, hosts = at(item, "spec", "gateways"), at(item, "spec", "hosts")
        bound = gateways if isinstance(gateways, list) and gateways else ["mesh"]
        if "mesh" not in bound or not items(at(item, "spec", "http")) or not isinstance(hosts, list):
            continue
        for number, host in enumerate(hosts):
            service = declared.service(host, namespace_of(item))
            ports = [port for _, port in items(at(service, "spec", "ports"))]
            protocols = [_protocol(port) for port in ports]
            if service is None or not ports or not all(protocol in OPAQUE for protocol in protocols):
                continue
            named = ", ".join(
                f"{port.get('name') or port.get('port')} ({protocol})"
                for port, protocol in zip(ports, protocols, strict=True)
            )
            yield declared.finding(
                "port-protocol",
                index,
                ("spec", "hosts", number),
                f"{Ref.of(service)} declares its ports as {named}: sidecars forward them as bytes and never look at"
                " the http rules",
                "name: http-... on the Service's port, if it is HTTP",
                "istio.io, Protocol Selection",
            )


def opaque_entry(declared: Declared) -> Iterator[Finding]:
    """Find HTTP rules for a ServiceEntry whose ports are all encrypted or no HTTP: sidecars see no request there."""
    entries = {
        host: (index, entry)
        for index, entry in declared.of("ServiceEntry", NETWORKING)
        for host in texts(at(entry, "spec", "hosts"))
    }
    for index, item in declared.of("VirtualService", NETWORKING):
        if not items(at(item, "spec", "http")):
            continue
        for number, host in enumerate(texts(at(item, "spec", "hosts"))):
            other, entry = entries.get(host, (None, {}))
            ports = [port for _, port in items(at(entry, "spec", "ports"))]
            protocols = [str(port.get("protocol")).lower() for port in ports]
            if not ports or not all(protocol in OPAQUE for protocol in protocols):
                continue
            named = ", ".join(f"{port.get('number')} ({port.get('protocol')})" for port in ports)
            yield declared.finding(
                "port-protocol",
                index,
                ("spec", "hosts", number),
                f"the ServiceEntry of {host} declares its ports as {named}: sidecars forward them as bytes and never"
                " look at the http rules",
                "tls rules by sniHosts; or protocol: HTTP, and a DestinationRule that makes the TLS",
                "istio.io, Protocol Selection, and ServiceEntry's protocols",
                other,
            )


def _protocol(port: Object) -> str | None:
    """Read the protocol that a port declares, as Istio does: appProtocol, then the name up to its first hyphen."""
    if port.get("protocol") not in (None, "TCP"):
        return "udp"
    declared = port.get("appProtocol")
    if isinstance(declared, str):
        text = STANDARD.get(declared, declared).lower()
        return text if text in HTTP | OPAQUE else None
    name = port.get("name")
    if not isinstance(name, str):
        return None
    if name.lower().startswith("grpc-web"):
        return "grpc-web"
    prefix = name.lower().partition("-")[0]
    return prefix if prefix in HTTP | OPAQUE else None
