"""The canary release: two versions behind one Service, and the gateway splits requests between them by weight."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.kube import proxy, query
from meshstrap.kube.errors import KubeError
from meshstrap.mesh import gateway, injector
from meshstrap.mesh.cluster_config import at_the_server, declared_policy
from meshstrap.scenarios import ingress, inside
from meshstrap.scenarios.canary import judge
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario, declared
from meshstrap.scenarios.parameters import whole_number
from meshstrap.scenarios.site import Site

# Each pod is asked this often in the control: once could be luck if a pod answered for both.
CONTROL_REQUESTS = 3
INBOUND = f"inbound|{judge.PORT}||"


class Canary(Scenario):
    """`canary_weight` percent of the requests to v2, the rest to v1."""

    name = "canary"
    namespace = "canary"

    @override
    def parameters(self, data: Mapping[str, object]) -> dict[str, Any]:
        """Read `canary_weight`, v2's share in percent."""
        return {"weight": whole_number(data, "canary_weight", default=10, low=0, high=100)}

    @override
    def set_parameters(self, objects: list[Object], parameters: Mapping[str, Any]) -> None:
        """Set the weights of the VirtualService's two destinations."""
        shares = {"v1": 100 - parameters["weight"], "v2": parameters["weight"]}
        for destination in declared(objects, "VirtualService")["spec"]["http"][0]["route"]:
            destination["weight"] = shares[destination["destination"]["subset"]]

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say the split."""
        weight = parameters["weight"]
        return f"of the requests to http://<node>:<NodePort>/ {weight} % reach v2 and {100 - weight} % reach v1"

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for the gateway's side of it, and for a sidecar in each of the scenario's pods."""
        lacks = ingress.missing(site)
        pods = query.list(site.client, "v1", "Pod", self.namespace, labels="apply=canary")
        if not pods:
            lacks.append(f"namespace {self.namespace} has no pod labelled apply=canary; run deploys/canary.py")
        lacks += [injector.unproxied(pod, "deploys/canary.py") for pod in pods if not gateway.has_sidecar(pod)]
        return lacks

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare each gateway's routes, its endpoints with the subsets' ready pods, and the clusters of both sides."""
        endpoints = {
            cluster: {f"{pod['status']['podIP']}:{judge.PORT}" for pod in self._pods(site, subset)}
            for cluster, subset in judge.ARMS.items()
        }
        policy = declared_policy(declared(objects, "DestinationRule"))
        gateways = ",".join(f"{key}={value}" for key, value in gateway.SELECTOR.items())
        return [
            *ingress.differences(site, declared(objects, "VirtualService"), [declared(objects, "Service")], endpoints),
            *inside.cluster_differences(site, gateway.NAMESPACE, gateways, dict.fromkeys(judge.ARMS, policy)),
            *inside.cluster_differences(site, self.namespace, "apply=canary", {INBOUND: at_the_server(policy)}),
        ]

    @override
    def control(self, site: Site, objects: list[Object]) -> Observation:
        """Ask each pod directly, through the API server and past the gateway: the marker must tell the version."""
        return {
            "replies": [
                {"pod": pod["metadata"]["name"], "subset": subset, **self._ask(site, pod["metadata"]["name"])}
                for subset in judge.SUBSETS
                for pod in self._pods(site, subset)
                for _ in range(CONTROL_REQUESTS)
            ]
        }

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """400 requests at 0.001; if and only if they fall outside, 1 000 fresh ones at 0.0001 decide alone."""
        return Round(400, Fraction(1, 1000)), Round(1000, Fraction(1, 10_000))

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Ask every node's NodePort once, then send the series through the first node's."""
        began, gateways = site.clock.now().isoformat(), ingress.gateway_names(site)
        targets = ingress.targets(site)
        requests = ingress.send(site, targets)
        for request in requests:
            request["counted"] = False
        # Hundreds of requests that all run into their timeout would tell no more than the first one did.
        if requests[0]["status"] is not None:
            counted = ingress.send(site, targets[:1] * series.n)
            requests += [request | {"counted": True} for request in counted]
        return {"began": began, "gateways": gateways, "requests": requests}

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the gateways' access log by mark."""
        return ingress.collect(site, observed)

    @override
    def undecided(self, observation: Observation) -> bool:
        """Tell whether the first series is sound and yet outside its region."""
        return judge.undecided(observation)

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge the split by both witnesses."""
        return judge.judge(observation)

    @override
    def try_it(self, observation: Observation) -> str:
        """Give the tutorial's own loop, with a count at its end."""
        url = observation["rounds"][0]["requests"][0]["url"]
        return f"for i in $(seq 100); do curl -s {url}/; done | sort | uniq -c"

    def _pods(self, site: Site, subset: str) -> list[Mapping[str, Any]]:
        labels = f"apply=canary,version={subset}"
        return gateway.ready_pods(query.list(site.client, "v1", "Pod", self.namespace, labels=labels))

    def _ask(self, site: Site, pod: str) -> dict[str, str]:
        try:
            body = proxy.get(site.client, "pods", self.namespace, pod, judge.PORT)
            return {"body": body.decode(errors="replace"), "error": ""}
        except KubeError as error:
            return {"body": "", "error": str(error)}
