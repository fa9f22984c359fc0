"""Fault injection: the caller's proxy answers 503 in the server's place, or holds a request back before it sends it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh.proxy_config import cluster_name
from meshstrap.scenarios import inside
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario
from meshstrap.scenarios.fault import judge
from meshstrap.scenarios.site import Site

PORT = 8080
TOMCAT = "server=tomcat"
# Requests of which all, or none, get a fault.
CERTAIN = 10
# So many ask at once where half of them wait.
ASKERS = 10


class Fault(Scenario):
    """Aborts and delays of 100 % and 50 % of the requests to one server, each under a Service of its own."""

    name = "fault"
    namespace = "fault"
    client = inside.Client(namespace, "app=busybox", "busybox")

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say which faults are injected."""
        return (
            "the caller's proxy aborts every request to tomcat-svc and half of those to tomcat-half with 503, delays"
            " every one to tomcat-slow and half of those to tomcat-slow-half by 500 ms, and lets those to tomcat-sound"
            " be"
        )

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for the client and the server, each with its sidecar."""
        return inside.missing(
            site, self.namespace, {"busybox": self.client.labels, "tomcat": TOMCAT}, "deploys/fault.py"
        )

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare the client's sidecar with the five VirtualServices, and its endpoints with the server's pods."""
        services = [item for item in objects if item["kind"] == "Service"]
        rules = [item for item in objects if item["kind"] == "VirtualService"]
        behind = inside.addresses(inside.pods(site, self.namespace, TOMCAT), PORT)
        endpoints = {
            cluster_name(f"{name}.{self.namespace}.svc.cluster.local", "", PORT): behind for name in judge.EXPECTED
        }
        return inside.differences(site, self.client, rules, services, endpoints)

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """200 requests for each half at 0.001; if and only if one falls outside, 500 fresh ones at 0.0001 decide."""
        return Round(200, Fraction(1, 1000)), Round(500, Fraction(1, 10_000))

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Ask each Service from inside; the counters before and after stand beside."""
        began = site.clock.now().isoformat()
        before, pods = self._counters(site), self._pods(site)
        requests: list[dict[str, Any]] = []
        for name, expected in judge.EXPECTED.items():
            urls = [f"http://{name}:{PORT}/"] * (series.n if expected.percent == 50 else CERTAIN)
            asked = inside.send(site, self.client, urls, at_once=ASKERS)
            requests += [request | {"service": name} for request in asked]
        return {
            "began": began,
            "requests": requests,
            "pods": pods,
            "counters": {"before": before, "after": self._counters(site)},
        }

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the access logs of client and server by mark."""
        watched = {"busybox": (self.namespace, self.client.labels), "tomcat": (self.namespace, TOMCAT)}
        return inside.collect(site, observed, watched)

    @override
    def undecided(self, observation: Observation) -> bool:
        """Tell whether the first series is sound and yet outside a region."""
        return judge.undecided(observation)

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by the client's replies, both proxies' logs and the proxy's counters."""
        return judge.judge(observation)

    @override
    def way(self, site: Site, objects: list[Object]) -> str:
        """Follow a request from busybox to tomcat."""
        return inside.way(site, self.namespace, {"": self.client.labels, f"tomcat-svc:{PORT}": TOMCAT})

    @override
    def try_it(self, observation: Observation) -> str:
        """Give the tutorial's own request."""
        return f"kubectl exec -n fault deploy/busybox -c busybox -- wget -q -O - http://tomcat-svc:{PORT}/"

    def _counters(self, site: Site) -> dict[str, int | None]:
        return inside.counters(
            site,
            self.namespace,
            self.client.labels,
            {"aborts": ".fault.aborts_injected", "delays": ".fault.delays_injected"},
        )

    def _pods(self, site: Site) -> dict[str, list[str]]:
        return {
            "busybox": inside.names(inside.pods(site, self.namespace, self.client.labels)),
            "tomcat": inside.names(inside.pods(site, self.namespace, TOMCAT)),
        }
