"""The tutorial's chain busybox -> nginx -> tomcat, on which a rule of the first hop meets a fault of the second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.mesh.proxy_config import cluster_name
from meshstrap.scenarios import inside
from meshstrap.scenarios.engine import Object, Observation
from meshstrap.scenarios.site import Site

WEB_PORT, APP_PORT = 80, 8080


@dataclass(frozen=True)
class TwoHops:
    """The chain in one namespace: who it is made of, what their proxies must hold, how it is asked and watched."""

    namespace: str

    @property
    def roles(self) -> dict[str, tuple[str, str]]:
        """For each role the namespace and the selector of its pods, the client first."""
        labels = {"busybox": "app=busybox", "nginx": "server=nginx", "tomcat": "server=tomcat"}
        return {role: (self.namespace, selector) for role, selector in labels.items()}

    def missing(self, site: Site, deploy: str) -> list[str]:
        """Look for the three roles' pods, each with its sidecar."""
        return inside.missing(site, self.namespace, {role: labels for role, (_, labels) in self.roles.items()}, deploy)

    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare what each caller's proxy holds of the rules for the Services that it asks, and its endpoints."""
        services = [item for item in objects if item["kind"] == "Service"]
        rules = [item for item in objects if item["kind"] == "VirtualService"]
        found = []
        for caller, callee, port in (("busybox", "nginx", WEB_PORT), ("nginx", "tomcat", APP_PORT)):
            theirs = [item for item in services if item["spec"]["selector"] == {"server": callee}]
            names = [item["metadata"]["name"] for item in theirs]
            behind = inside.addresses(inside.pods(site, *self.roles[callee]), port)
            found += inside.differences(
                site,
                inside.Client(*self.roles[caller], caller),
                [rule for rule in rules if rule["spec"]["hosts"][0] in names],
                services,
                {self._cluster(name, port): behind for name in names},
            )
        return found

    def ask(self, site: Site, numbers: Mapping[str, int], counters: Mapping[str, tuple[str, str]]) -> Observation:
        """Ask Services of nginx from busybox, one request after the other, between two looks at its proxy's counters.

        Args:
            site: where.
            numbers: for each Service, with a path or without, how many requests, in this order.
            counters: for each name of the answer the Service and the counter of its cluster.

        Returns:
            When it began, the requests, the pods of each role, and the counters before and after.
        """
        wanted = {key: f"{self._cluster(service, WEB_PORT)} {counter}" for key, (service, counter) in counters.items()}
        began, pods = site.clock.now().isoformat(), self._pods(site)
        before = inside.counters(site, *self.roles["busybox"], wanted)
        client = inside.Client(*self.roles["busybox"], "busybox")
        requests = [
            request | {"service": service}
            for service, number in numbers.items()
            for request in inside.send(site, client, [f"http://{service}/"] * number)
        ]
        after = inside.counters(site, *self.roles["busybox"], wanted)
        return {
            "began": began,
            "pods": pods,
            "requests": requests,
            "counters": {"before": before, "after": after},
        }

    def collect(self, site: Site, observed: Observation, wanted: Mapping[str, Mapping[str, int]]) -> bool:
        """Read the access logs of the three roles' proxies by mark.

        Args:
            site: where.
            observed: what `ask` gave; `log` and `pods_after` are set.
            wanted: for each Service, and each role behind the client, how many lines a request to it leaves at least;
                nginx's proxy writes as many of what nginx itself asks for.

        Returns:
            Whether every request that was answered has them: proxies write their logs at moments of their own.
        """
        complete = inside.collect(site, observed, self.roles)
        return complete and all(
            len(inbound(observed, role, request["mark"])) >= number
            and (role != "nginx" or len(onward(observed, role, request["mark"])) >= number)
            for request in observed["requests"]
            if request["status"] is not None
            for role, number in wanted[request["service"]].items()
        )

    def way(self, site: Site) -> str:
        """Follow a request from busybox by nginx to tomcat."""
        services = ("", f"nginx-svc:{WEB_PORT}", f"tomcat-svc:{APP_PORT}")
        labels = [selector for _, selector in self.roles.values()]
        return inside.way(site, self.namespace, dict(zip(services, labels, strict=True)))

    def _pods(self, site: Site) -> dict[str, list[str]]:
        return {role: inside.names(inside.pods(site, *where)) for role, where in self.roles.items()}

    def _cluster(self, service: str, port: int) -> str:
        return cluster_name(f"{service}.{self.namespace}.svc.cluster.local", "", port)


def inbound(series: Mapping[str, Any], role: str, mark: str) -> list[Mapping[str, Any]]:
    """Give the lines of what a role's proxies took in under a mark; what its pods asked for is logged there too."""
    return [line for line in series["log"][role].get(mark, []) if line["cluster"].startswith("inbound|")]


def onward(series: Mapping[str, Any], role: str, mark: str) -> list[Mapping[str, Any]]:
    """Give the lines of what a role's pods asked for under a mark, as their own proxies logged it."""
    return [line for line in series["log"][role].get(mark, []) if line["cluster"].startswith("outbound|")]


def flagged(line: Mapping[str, Any]) -> str:
    """Say a line's flags and details as the log does."""
    return f"{','.join(line['flags']) or '-'} {line['details']}"
