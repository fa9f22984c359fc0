"""One of three pods answers with errors only: it is ejected, gets nothing, and comes back for another try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh import cluster_config, proxy
from meshstrap.mesh.cluster_config import declared_policy
from meshstrap.scenarios import engine, inside
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario, declared
from meshstrap.scenarios.outlier_ejection import judge
from meshstrap.scenarios.site import Site

CLIENT = inside.Client("outlier-ejection", "app=busybox", "busybox")
WATCHED = {"client": (CLIENT.namespace, CLIENT.labels)}
COUNTERS = {
    "active": f"{judge.CLUSTER} outlier_detection.ejections_active",
    "enforced": f"{judge.CLUSTER} outlier_detection.ejections_enforced_consecutive_gateway_failure",
    "healthy": f"{judge.CLUSTER} membership_healthy",
    "requests": f"{judge.CLUSTER} upstream_rq_total",
}
# A pod that was ejected before is waited for so long, and then for what makes its next ejection longer to decay: Envoy
# takes one from the multiplier each interval (source/common/upstream/outlier_detection_impl.cc, checkHostForUneject).
CALM_SECONDS = 40.0
DECAY_SECONDS = 3.0
# Between two requests: the ejection has to reach the worker that takes the next one.
PAUSE = 0.1
# Three errors come within some 9 requests, a look's 3 take about a second; with bad luck, or on a slow machine, longer.
EJECTED_SECONDS = 40.0
LOOK_PAUSE = 0.2
# One look: requests to both Services in turn, so that they meet the same pods at the same time.
TURN = [judge.GUARDED, judge.UNGUARDED] * 3
# When it may come back, fewer than the errors that eject: or it could be ejected again before anybody looks.
SHORT_TURN = [judge.GUARDED, judge.UNGUARDED] * 2
LONG_TURN = TURN * 2


class OutlierEjection(Scenario):
    """The bad pod is ejected after three errors in a row, and is back after baseEjectionTime."""

    name = "outlier_ejection"
    namespace = "outlier-ejection"

    @override
    def parameters(self, data: Mapping[str, object]) -> dict[str, Any]:
        """Give what is judged: errors until ejection, and seconds of it. They are no data of the site."""
        return {"errors": 3, "seconds": 15}

    @override
    def set_parameters(self, objects: list[Object], parameters: Mapping[str, Any]) -> None:
        """Set both on the DestinationRule."""
        declared(objects, "DestinationRule")["spec"]["trafficPolicy"]["outlierDetection"] |= {
            "consecutiveGatewayErrors": parameters["errors"],
            "baseEjectionTime": f"{parameters['seconds']}s",
        }

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say who is ejected, when, and for how long."""
        return (
            f"of three pods the one that answers {parameters['errors']} times in a row with 503 gets nothing for"
            f" {parameters['seconds']} s, and then is tried again"
        )

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for the client and the three pods, each with its sidecar."""
        workloads = {"busybox": CLIENT.labels} | {f"web-{arm}": f"app=web,arm={arm}" for arm in judge.ARMS}
        return inside.missing(site, self.namespace, workloads, "deploys/outlier_ejection.py")

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare the client's routes, endpoints and outlier detection, which the control's Service must not have."""
        addresses = inside.addresses(inside.pods(site, self.namespace, "app=web"), 80)
        services = [item for item in objects if item["kind"] == "Service"]
        virtual_services = [item for item in objects if item["kind"] == "VirtualService"]
        policies = {judge.CLUSTER: declared_policy(declared(objects, "DestinationRule")), judge.CONTROL_CLUSTER: {}}
        return [
            *inside.differences(site, CLIENT, virtual_services, services, dict.fromkeys(policies, addresses)),
            *inside.cluster_differences(site, self.namespace, CLIENT.labels, policies),
        ]

    @override
    def control(self, site: Site, objects: list[Object]) -> Observation:
        """Wait until nothing is ejected, then see the bad pod's share through the Service without the rule."""
        calm = _until(site, lambda: not self._counters(site)["active"], CALM_SECONDS)
        since = site.clock.seconds()
        observed = self._beginning(site)
        observed["requests"] = inside.send(site, CLIENT, [judge.UNGUARDED] * judge.SHARE_OF)
        engine.collect(lambda: self.collect(site, observed), site)
        if calm and (left := since + DECAY_SECONDS - site.clock.seconds()) > 0:
            site.clock.sleep(left)
        return observed | {"calm": calm, "counters": self._counters(site)}

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """One series, until what is claimed was seen or its time is over; no share of it is judged."""
        return (Round(1, Fraction(0)),)

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Ask until the bad pod is ejected, go on until it is back, then ask until it is ejected again.

        The errors that a visitor before us left in the count would make the first ejection come early. The second one
        begins at none.
        """
        observed = self._beginning(site) | {"requests": [], "samples": [], "ejected": {}}
        began = site.clock.seconds()

        def look(phase: str, urls: list[str]) -> bool:
            sent = inside.send(site, CLIENT, urls, pause=PAUSE)
            observed["requests"] += sent
            counters = self._counters(site)
            at = round(site.clock.seconds() - began, 3)
            observed["samples"].append({"seconds": at, "phase": phase} | judge.shares(sent) | counters)
            return bool(counters["active"])

        def mark_ejected(phase: str) -> None:
            statuses = proxy.dump(site.client, CLIENT.namespace, observed["pods"]["client"][0], cluster_config.STATUSES)
            found = cluster_config.ejected(statuses, judge.CLUSTER)
            observed["ejected"][phase] = None if found is None else sorted(found)

        if not _until(site, lambda: look("before", TURN), EJECTED_SECONDS):
            return observed
        mark_ejected("during")
        half = site.clock.seconds() + parameters["seconds"] / 2

        def gone() -> bool:
            return not look("during", LONG_TURN if site.clock.seconds() < half else SHORT_TURN)

        if not _until(site, gone, parameters["seconds"] + judge.SLACK_SECONDS):
            return observed
        mark_ejected("after")
        # Nothing of the rule's for a moment, so that the next ejection is as short as the first: others may follow us.
        settled = site.clock.seconds() + DECAY_SECONDS / 2
        _until(site, lambda: look("back", [judge.UNGUARDED]) or site.clock.seconds() >= settled, DECAY_SECONDS)
        _until(site, lambda: look("again", TURN), EJECTED_SECONDS)
        return observed

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the client's access log by mark."""
        return inside.collect(site, observed, WATCHED)

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by the replies, the log and the counters."""
        return judge.judge(observation)

    @override
    def way(self, site: Site, objects: list[Object]) -> str:
        """Follow a request from busybox to the three pods."""
        service = next(item["metadata"]["name"] for item in objects if item["kind"] == "Service")
        return inside.way(site, self.namespace, {"": CLIENT.labels, service: "app=web"})

    @override
    def try_it(self, observation: Observation) -> str:
        """Ask as a person would, often enough to see errors, their end, and their coming back."""
        return (
            f"kubectl -n {self.namespace} exec deploy/busybox -c busybox -- sh -c"
            f" 'for i in $(seq 60); do wget -q -O - {judge.GUARDED}; sleep 0.5; done'"
        )

    def _beginning(self, site: Site) -> Observation:
        """Note when it began, the client's pods, and which pod is good and which bad, by address."""
        arms = {
            address: arm
            for arm in judge.ARMS
            for address in inside.addresses(inside.pods(site, self.namespace, f"app=web,arm={arm}"), 80)
        }
        pods = {role: inside.names(inside.pods(site, *where)) for role, where in WATCHED.items()}
        return {"began": site.clock.now().isoformat(), "pods": pods, "arms": arms}

    def _counters(self, site: Site) -> dict[str, int | None]:
        return inside.counters(site, CLIENT.namespace, CLIENT.labels, COUNTERS)


def _until(site: Site, look: Callable[[], bool], seconds: float) -> bool:
    """Look, at least once, until what is looked for is seen or the time is over; tell whether it was seen."""
    deadline = site.clock.seconds() + seconds
    while not (seen := look()) and site.clock.seconds() < deadline:
        site.clock.sleep(LOOK_PAUSE)
    return seen
