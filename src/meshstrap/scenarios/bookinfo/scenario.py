"""Bookinfo: a page behind the gateway, made of three services, one of them in three versions."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.kube import proxy
from meshstrap.kube.errors import KubeError
from meshstrap.mesh.proxy_config import cluster_name
from meshstrap.scenarios import access_lines, ingress, inside
from meshstrap.scenarios.bookinfo import judge
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario, declared
from meshstrap.scenarios.site import Site

PORT = 9080
PATH = "/productpage"
SERVICES = ("details", "productpage", "ratings", "reviews")
# Each pod is asked this often in the control: once could be luck if a pod answered for several versions.
CONTROL_REQUESTS = 3


class Bookinfo(Scenario):
    """The page answers through every node, and all three versions of reviews take part in it."""

    name = "bookinfo"
    namespace = "bookinfo"

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say what is to be seen."""
        return (
            f"http://<node>:<NodePort>{PATH} answers through every node, and shows the reviews of all three versions:"
            " without stars, with black and with red ones"
        )

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for the gateway's side of it, and for six workloads with a sidecar in each pod."""
        workloads = {
            item["metadata"]["name"]: ",".join(f"{key}={value}" for key, value in _labels(item).items())
            for item in objects
            if item["kind"] == "Deployment"
        }
        lacks = ingress.missing(site)
        lacks += inside.missing(site, self.namespace, workloads, "deploys/bookinfo.py")
        return list(dict.fromkeys(lacks))

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare the gateways' routes and endpoints, and the endpoints of each caller inside."""
        services = [item for item in objects if item["kind"] == "Service"]
        behind = {
            name: {self._cluster(name): inside.addresses(inside.pods(site, self.namespace, f"app={name}"), PORT)}
            for name in SERVICES
        }
        callers = {"productpage": behind["details"] | behind["reviews"], "reviews": behind["ratings"]}
        found = ingress.differences(site, declared(objects, "VirtualService"), services, behind["productpage"])
        for name, endpoints in callers.items():
            caller = inside.Client(self.namespace, f"app={name}", name)
            found += inside.differences(site, caller, [], services, endpoints)
        return found

    @override
    def control(self, site: Site, objects: list[Object]) -> Observation:
        """Ask each pod of reviews directly, past page and gateway: its stars must tell its version."""
        return {
            "replies": [
                {"pod": pod, "version": version, **self._ask(site, pod)}
                for pod, version in self._reviews(site).items()
                for _ in range(CONTROL_REQUESTS)
            ]
        }

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """60 pages: that one version of three is missing then has a chance of 8e-11."""
        return (Round(60, Fraction(1, 10**9)),)

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Fetch the page once through every node, then the series through the first."""
        began, gateways, reviews = site.clock.now().isoformat(), ingress.gateway_names(site), self._reviews(site)
        targets = ingress.targets(site, path=PATH)
        requests = ingress.send(site, targets)
        # Pages that all run into their timeout would tell no more than the first one did.
        if requests[0]["status"] is not None:
            requests += ingress.send(site, targets[:1] * series.n)
        return {"began": began, "gateways": gateways, "reviews": reviews, "requests": requests}

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the access logs of the gateways and of reviews, by the mark in query and User-Agent."""
        complete = ingress.collect(site, observed)
        after = self._reviews(site)
        observed["reviews_after"] = after
        observed["reviews_log"] = access_lines.read(site, self.namespace, after, observed)
        answered = {request["mark"] for request in observed["requests"] if request["status"] == 200}
        return complete and answered <= set(observed["reviews_log"])

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by the pages and by both logs."""
        return judge.judge(observation)

    @override
    def try_it(self, observation: Observation) -> str:
        """Give the URL for a browser: reload it."""
        return f"{observation['rounds'][0]['requests'][0]['url']}{PATH} (reload it: the stars change)"

    def _reviews(self, site: Site) -> dict[str, str]:
        """Give the ready pods of reviews, each with its version."""
        return {
            str(pod["metadata"]["name"]): str(pod["metadata"]["labels"].get("version"))
            for pod in inside.pods(site, self.namespace, "app=reviews")
        }

    def _ask(self, site: Site, pod: str) -> dict[str, str]:
        try:
            body = proxy.get(site.client, "pods", self.namespace, pod, PORT, "/reviews/0")
            return {"body": body.decode(errors="replace"), "error": ""}
        except KubeError as error:
            return {"body": "", "error": str(error)}

    def _cluster(self, service: str) -> str:
        return cluster_name(f"{service}.{self.namespace}.svc.cluster.local", "", PORT)


def _labels(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["selector"]["matchLabels"]
    return labels
