"""A timeout: the caller's proxy waits 2 s for an answer that is delayed by 10 s on the hop behind."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario
from meshstrap.scenarios.site import Site
from meshstrap.scenarios.timeout import judge
from meshstrap.scenarios.two_hops import TwoHops


class Timeout(Scenario):
    """busybox gives nginx 2 s, and nginx waits 10 s for tomcat."""

    name = "timeout"
    namespace = "timeout"
    hops = TwoHops(namespace)

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say what becomes of a request."""
        return (
            "a request to nginx-svc ends after 2 s with 504, as tomcat behind nginx is delayed by 10 s; one to"
            " nginx-patient, which has no timeout, gets its answer after 10 s"
        )

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for client, middle and server, each with its sidecar."""
        return self.hops.missing(site, "deploys/timeout.py")

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare the timeout in the client's proxy and the delay in nginx's."""
        return self.hops.differences(site, objects)

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """Three requests: each must do as declared, so no statistics are needed."""
        return (Round(3, Fraction(1, 10**9)),)

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Ask with the timeout, then once without: by then the delay of the others is over too."""
        return self.hops.ask(site, {judge.HASTY: series.n, judge.PATIENT: 1}, judge.COUNTERS)

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the access logs of all three by mark."""
        return self.hops.collect(site, observed, judge.LINES)

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by the client's replies, the proxies' logs and the client's counter."""
        return judge.judge(observation)

    @override
    def way(self, site: Site, objects: list[Object]) -> str:
        """Follow a request from busybox by nginx to tomcat."""
        return self.hops.way(site)

    @override
    def try_it(self, observation: Observation) -> str:
        """Give the tutorial's own request, timed."""
        return "time kubectl exec -n timeout deploy/busybox -c busybox -- wget -q -O - http://nginx-svc/"
