"""Retries: the caller's proxy asks nginx again and again, as tomcat's answers are aborted on the hop behind."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh import proxy, versions
from meshstrap.mesh.errors import ProxyError
from meshstrap.scenarios import inside
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario
from meshstrap.scenarios.retry import judge
from meshstrap.scenarios.site import Site
from meshstrap.scenarios.two_hops import TwoHops


class Retry(Scenario):
    """Three retries and their conditions, seen by the attempts that reach nginx."""

    name = "retry"
    namespace = "retry"
    hops = TwoHops(namespace)

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say what becomes of a request."""
        return (
            "a request to nginx-svc that gets 503 is tried again three times; one to nginx-once is not, nor"
            " one that is answered; the tutorial's rule, without retryOn, tries as often as this Istio's defaults say"
        )

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for client, middle and server, each with its sidecar."""
        return self.hops.missing(site, "deploys/retry.py")

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare the retries in the client's proxy and the abort in nginx's."""
        return self.hops.differences(site, objects)

    @override
    def control(self, site: Site, objects: list[Object]) -> Observation:
        """Read the version of the client's proxy, on which the defaults depend; the control itself is nginx-once."""
        pod = inside.names(inside.pods(site, *self.hops.roles["busybox"]))[0]
        said = proxy.dump(site.client, self.namespace, pod, "server_info")
        version = said.get("node", {}).get("metadata", {}).get("ISTIO_VERSION", "")
        try:
            versions.parse(version)
        except ValueError as error:
            raise ProxyError(f"{self.namespace}/{pod}: its proxy tells no version of Istio: {error}") from None
        return {"istio": version}

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """Five requests to each: each must do as declared, so no statistics are needed."""
        return (Round(5, Fraction(1, 10**9)),)

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Ask the three Services of nginx, and the first once more for what is not aborted."""
        return self.hops.ask(site, dict.fromkeys(judge.SERVICES, series.n), judge.COUNTERS)

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the access logs of all three by mark."""
        return self.hops.collect(site, observed, judge.LINES)

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by the attempts at nginx, the client's replies and log, and its counters."""
        return judge.judge(observation)

    @override
    def way(self, site: Site, objects: list[Object]) -> str:
        """Follow a request from busybox by nginx to tomcat."""
        return self.hops.way(site)

    @override
    def try_it(self, observation: Observation) -> str:
        """Give the tutorial's own request, and where its attempts are seen."""
        return (
            "kubectl exec -n retry deploy/busybox -c busybox -- wget -q -O - 'http://nginx-svc/?mark=me';"
            " kubectl logs -n retry deploy/nginx -c istio-proxy | grep -c 'mark=me.*inbound|'"
        )
