"""The overflow: one connection and one waiting request are allowed, and ten connections ask at once."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh.cluster_config import at_the_server, declared_policy
from meshstrap.scenarios import engine, inside
from meshstrap.scenarios.circuit_breaker import judge, load
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario, declared
from meshstrap.scenarios.site import Site

CLIENT = inside.Client("circuit-breaker", "app=fortio", "fortio")
SERVER = "app=httpbin"
WATCHED = {"client": (CLIENT.namespace, CLIENT.labels), "server": (CLIENT.namespace, SERVER)}
COUNTERS = {"overflow": f"{judge.CLUSTER} {judge.COUNTER}"}
# One second each: what comes meanwhile finds the only connection taken, however slow the machine is.
SLOW, QUICK = "http://httpbin:8000/delay/1", "http://httpbin:8000/delay/0.2"
CONNECTIONS, CONTROL_REQUESTS = 10, 8


class CircuitBreaker(Scenario):
    """More than the DestinationRule's connectionPool allows is refused in the client's own sidecar."""

    name = "circuit_breaker"
    namespace = "circuit-breaker"

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say what overflows, and where."""
        return (
            f"with one connection and one waiting request allowed, {CONNECTIONS} connections at once make requests"
            " overflow: 503 UO from the client's sidecar, and the server never sees them"
        )

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for both workloads, each with its sidecar."""
        return inside.missing(
            site, self.namespace, {"fortio": CLIENT.labels, "httpbin": SERVER}, "deploys/circuit_breaker.py"
        )

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare the limits in the client's outbound and in the server's inbound cluster, and the endpoints."""
        policy = declared_policy(declared(objects, "DestinationRule"))
        endpoints = {judge.CLUSTER: inside.addresses(inside.pods(site, self.namespace, SERVER), 80)}
        return [
            *inside.differences(site, CLIENT, [], [], endpoints),
            *inside.cluster_differences(site, self.namespace, CLIENT.labels, {judge.CLUSTER: policy}),
            *inside.cluster_differences(site, self.namespace, SERVER, {judge.INBOUND: at_the_server(policy)}),
        ]

    @override
    def control(self, site: Site, objects: list[Object]) -> Observation:
        """Send a few requests over one connection: none overflows."""
        observed = self._observe(site, QUICK, connections=1, requests=CONTROL_REQUESTS)
        engine.collect(lambda: self.collect(site, observed), site)
        return observed

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """One series; no share of it is judged, so that there is no chance to declare."""
        return (Round(40, Fraction(0)),)

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Send requests of a second each over ten connections."""
        return self._observe(site, SLOW, connections=CONNECTIONS, requests=series.n)

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the lines of both sidecars, and the client's counter once they are all there."""
        inside.read_lines(site, observed, WATCHED)
        observed["counters"]["after"] = self._counters(site)
        return judge.accounted(observed)

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by fortio, both logs and the counter."""
        return judge.judge(observation)

    @override
    def way(self, site: Site, objects: list[Object]) -> str:
        """Follow a request from fortio to httpbin."""
        return inside.way(site, self.namespace, {"": CLIENT.labels, "httpbin:8000": SERVER})

    @override
    def try_it(self, observation: Observation) -> str:
        """Give the tutorial's own command, with enough connections."""
        return (
            f"kubectl -n {self.namespace} exec deploy/fortio-deploy -c fortio -- /usr/bin/fortio load"
            f" -c {CONNECTIONS} -n 40 -qps 0 -loglevel Error {SLOW}"
        )

    def _observe(self, site: Site, url: str, *, connections: int, requests: int) -> Observation:
        pods = {role: inside.names(inside.pods(site, *where)) for role, where in WATCHED.items()}
        counters = {"before": self._counters(site)}
        return {"pods": pods, "counters": counters} | load.run(
            site, CLIENT, url, connections=connections, requests=requests
        )

    def _counters(self, site: Site) -> dict[str, int | None]:
        return inside.counters(site, CLIENT.namespace, CLIENT.labels, COUNTERS)
