"""Mirroring: v1 answers through the gateway, and v2 gets a copy of each request, whose answer nobody sees."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import cycle, islice
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.scenarios import access_lines, ingress, inside
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario
from meshstrap.scenarios.mirror import judge
from meshstrap.scenarios.site import Site


class Mirror(Scenario):
    """Every request to `mirror.example` reaches v1 and v2, those to `mirror-off.example` v1 alone."""

    name = "mirror"
    namespace = "mirror"

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say what becomes of a request."""
        return "every request to mirror.example is answered by v1, and v2 gets a copy of it"

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for the gateway's side of it, and for a sidecar in each version's pods."""
        lacks = ingress.missing(site)
        versions = {f"app{version}": _labels(version) for version in judge.VERSIONS}
        lacks += inside.missing(site, self.namespace, versions, "deploys/mirror.py")
        return list(dict.fromkeys(lacks))

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare each gateway's routes with both VirtualServices and its endpoints with each version's pods."""
        services = [item for item in objects if item["kind"] == "Service"]
        endpoints = {
            cluster: inside.addresses(inside.pods(site, self.namespace, _labels(version)), judge.PORT)
            for cluster, version in judge.ARMS.items()
        }
        return [line for rule in _rules(objects) for line in ingress.differences(site, rule, services, endpoints)]

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """30 requests to each host: every single one must do as declared, so no statistics are needed."""
        return (Round(30, Fraction(1, 10**9)),)

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Ask both hosts through every node in turn."""
        began, gateways, pods = site.clock.now().isoformat(), ingress.gateway_names(site), self._pods(site)
        targets = [
            target
            for host in (judge.MIRRORED, judge.PLAIN)
            for target in islice(cycle(ingress.targets(site, host=host)), series.n)
        ]
        return {
            "began": began,
            "gateways": gateways,
            "pods": pods,
            "counters": {"before": self._counters(site)},
            "requests": ingress.send(site, targets),
        }

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the access logs of the gateways and of both versions by mark, and v2's counter."""
        complete = ingress.collect(site, observed)
        observed["pods_after"] = self._pods(site)
        observed["behind"] = {
            version: access_lines.read(site, self.namespace, names, observed)
            for version, names in observed["pods_after"].items()
        }
        observed["counters"]["after"] = self._counters(site)
        marks = {request["mark"] for request in observed["requests"] if request["status"] == 200}
        copied = {
            request["mark"]
            for request in observed["requests"]
            if request["status"] == 200 and request["host"] == judge.MIRRORED
        }
        return complete and marks <= set(observed["behind"]["v1"]) and copied <= set(observed["behind"]["v2"])

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by the replies, by the logs of gateway and versions, and by v2's counter."""
        return judge.judge(observation)

    @override
    def try_it(self, observation: Observation) -> str:
        """Give one request, and where its copy is seen."""
        url = observation["rounds"][0]["requests"][0]["url"]
        return (
            f"curl -s -H 'Host: {judge.MIRRORED}' '{url}/?mark=me';"
            " kubectl -n mirror logs -l version=v2 -c istio-proxy | grep mark=me"
        )

    def _counters(self, site: Site) -> dict[str, int | None]:
        return inside.counters(site, self.namespace, _labels("v2"), {"copies": judge.COPIES})

    def _pods(self, site: Site) -> dict[str, list[str]]:
        return {
            version: inside.names(inside.pods(site, self.namespace, _labels(version))) for version in judge.VERSIONS
        }


def _rules(objects: list[Object]) -> list[Object]:
    return [item for item in objects if item["kind"] == "VirtualService"]


def _labels(version: str) -> str:
    return f"app=mirror,version={version}"
