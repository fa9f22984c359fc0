"""Sidecars: by the namespace's label, and not by the pod's own above it; seen by pods and by requests between them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from typing_extensions import override

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh import gateway, injector
from meshstrap.mesh.proxy_config import cluster_name
from meshstrap.scenarios import access_lines, inside
from meshstrap.scenarios.engine import Object, Observation, Round, Scenario
from meshstrap.scenarios.injection import judge
from meshstrap.scenarios.site import Site

PORT = 8080


class Injection(Scenario):
    """A client and a server in the mesh, and one of each outside, in one namespace."""

    name = "injection"
    namespace = "injection"

    @override
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say who has a sidecar."""
        return (
            "in a namespace with injection every pod has a sidecar but those that say no by a label of their own; and"
            " each sidecar sees the requests of its pod, in and out, and no others"
        )

    @override
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for the four workloads; who has a sidecar is for the judge."""
        return [
            f"namespace {self.namespace} has no ready pod of {name}; run deploys/injection.py"
            for name in judge.SIDECAR
            if not self._pods(site, name)
        ]

    @override
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare the endpoints that the client's sidecar holds with both servers' pods."""
        if not any(gateway.has_sidecar(pod) for pod in self._pods(site, "client-in")):
            return []
        endpoints = {
            cluster_name(f"{name}.{self.namespace}.svc.cluster.local", "", PORT): inside.addresses(
                self._pods(site, name), PORT
            )
            for name in judge.SERVERS
        }
        return inside.differences(site, inside.Client(self.namespace, "app=client-in", "busybox"), [], [], endpoints)

    @override
    def control(self, site: Site, objects: list[Object]) -> Observation:
        """Note where each pod has its proxy; the control itself is the pair that is outside of the mesh."""
        return {
            "pods": [
                {
                    "workload": name,
                    "pod": pod["metadata"]["name"],
                    "proxy": judge.place_of_proxy(pod),
                    "refusal": injector.refusal(pod),
                }
                for name in judge.SIDECAR
                for pod in self._pods(site, name)
            ]
        }

    @override
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """Three requests for each pair: each must do as declared, so no statistics are needed."""
        return (Round(3, Fraction(1, 10**9)),)

    @override
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Ask both servers from both clients."""
        began, pods = site.clock.now().isoformat(), self._names(site)
        requests = [
            request | {"client": client, "server": server}
            for client in judge.CLIENTS
            for server in judge.SERVERS
            for request in inside.send(
                site,
                inside.Client(self.namespace, f"app={client}", "busybox"),
                [f"http://{server}:{PORT}/"] * series.n,
            )
        ]
        return {"began": began, "pods": pods, "requests": requests}

    @override
    def collect(self, site: Site, observed: Observation) -> bool:
        """Read the logs of all proxies that there are, until the declared lines are there."""
        observed["pods_after"] = self._names(site)
        observed["log"] = {
            name: access_lines.read(
                site,
                self.namespace,
                inside.names(pod for pod in self._pods(site, name) if gateway.has_sidecar(pod)),
                observed,
            )
            for name in judge.SIDECAR
        }
        return all(
            request["mark"] in observed["log"][name]
            for request in observed["requests"]
            if request["status"] == 200
            for name in judge.seen_by(request)
        )

    @override
    def judge(self, observation: Observation) -> Verdict:
        """Judge by the pods, the replies and the proxies' logs."""
        return judge.judge(observation)

    @override
    def way(self, site: Site, objects: list[Object]) -> str:
        """Follow a request inside of the mesh."""
        return inside.way(site, self.namespace, {"": "app=client-in", f"server-in:{PORT}": "app=server-in"})

    @override
    def try_it(self, observation: Observation) -> str:
        """Give the command that shows both lists of containers."""
        return (
            "kubectl -n injection get pods -o"
            " custom-columns=POD:.metadata.name,INIT:.spec.initContainers[*].name,CONTAINERS:.spec.containers[*].name"
        )

    def _pods(self, site: Site, workload: str) -> list[inside.Pod]:
        return inside.pods(site, self.namespace, f"app={workload}")

    def _names(self, site: Site) -> dict[str, list[str]]:
        return {name: inside.names(self._pods(site, name)) for name in judge.SIDECAR}
