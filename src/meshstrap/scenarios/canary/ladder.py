"""The canary release to its end: v2's weight raised step by step to 100 %, v1 taken away and brought back.

Each step is proved like the canary itself. Across all switches one request after another goes through the gateway, and
not one may fail.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from meshstrap.evidence import report
from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.mesh.errors import GatewayError
from meshstrap.scenarios import engine, ingress
from meshstrap.scenarios.canary.judge import ARMS, marker
from meshstrap.scenarios.canary.scenario import Canary
from meshstrap.scenarios.engine import Object, Observation, Proof
from meshstrap.scenarios.site import Site
from meshstrap.scenarios.traffic import Sender
from meshstrap.scenarios.witnesses import replaced, tally, weighed

WEIGHTS = (20, 40, 60, 80, 100)
AWAY_REQUESTS = 100

RULE = (
    "every step proved like the canary at its weight; without v1 every reply v2's; every request across the switches"
    " 2xx and of a known version, and on exactly one line of the gateway's access log, to the version that answered"
)


def climb(
    canary: Canary,
    data: Mapping[str, object],
    site: Site,
    *,
    apply: Callable[[list[Object]], None],
    image: Callable[[str], str],
    say: Callable[[str], None],
) -> Proof:
    """Walk the ladder and come back to what the data declare, whatever happens.

    Args:
        canary: the scenario.
        data: the site's flat data; `canary_weight` is what is declared.
        site: where.
        apply: makes objects stand, and waits until they are ready.
        image: gives the reference to use for a reference in the manifests.
        say: told each step's verdict.

    Returns:
        The verdict on the whole ladder and its evidence file.

    Raises:
        KubeError, MeshError: no node is ready, and nothing was touched; or a step cannot be applied, and what is
            declared stands again, if that can be.
    """
    if not site.nodes:
        raise GatewayError("no node of the cluster is ready, so there is none to send requests to")
    started = site.clock.now()
    declared = canary.objects(canary.parameters(data), image=image, istio_revision=site.revision)
    observation: Observation = {"began": started.isoformat(), "steps": [], "gateways": ingress.gateway_names(site)}
    url = ingress.base_url(site, site.nodes[0])
    traffic = Sender(ingress.asked_url(site, site.nodes[0]), secrets.token_hex(8))
    try:
        with traffic:
            for weight in WEIGHTS:
                at = {**data, "canary_weight": weight}
                objects = canary.objects(canary.parameters(at), image=image, istio_revision=site.revision)
                apply(objects)
                step = engine.prove(canary, at, site, image=image)
                say(f"{100 - weight}/{weight}: {step.verdict.line}")
                observation["steps"].append({"weight": weight, "evidence": step.report.name, **step.verdict.as_dict()})
                if not step.verdict.passed:
                    break
            else:
                observation["away"] = _without_v1(site, objects, apply)
                say("0/100 without v1: 0 replicas, asked, and brought back")
    finally:
        apply(declared)
    observation["requests"] = [request | {"url": url} for request in traffic.requests]
    engine.collect(lambda: ingress.collect(site, observation), site)
    verdict = judge(observation)
    content = {
        "scenario": "canary_ladder",
        "claim": "v2's share is raised to 100 % in steps and v1 taken away, and no request fails",
        "verdict": verdict.as_dict(),
        "started": started.isoformat(),
        "finished": site.clock.now().isoformat(),
        "objects": declared,
        "observation": observation,
    }
    return Proof("canary_ladder", verdict, report.write(site.reports, "canary_ladder", content, at=started), "")


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a ladder. Pure.

    Args:
        observation: the steps with their verdicts, what was asked without v1, and the traffic with its log lines.

    Returns:
        FAIL for a step or a request that failed; INCONCLUSIVE for one that is not proved; else PASS.
    """
    failures: list[str] = []
    gaps: list[str] = []
    for step in observation["steps"]:
        said = f"step {100 - step['weight']}/{step['weight']}: {step['summary']}"
        if step["outcome"] != Outcome.PASS:
            (failures if step["outcome"] == Outcome.FAIL else gaps).append(said)
    seen = tally(observation["requests"], observation["log"], arms=ARMS, marker=marker)
    failures += [f"across the switches {line}" for line in seen.failures]
    gaps += [f"across the switches {line}" for line in seen.gaps]
    if not observation["requests"]:
        gaps.append("no request was sent across the switches")
    away = observation.get("away")
    if away is None:
        gaps.append("the ladder was not walked to its end")
    else:
        alone = tally(away["requests"], away["log"], arms=ARMS, marker=marker)
        failures += [f"without v1 {line}" for line in alone.failures]
        if strays := alone.replies.get("v1"):
            failures.append(f"without v1 {strays} requests were answered by it")
        gaps += [f"without v1 {line}" for line in alone.gaps]
    if gaps:
        pods = "the gateway"
        gaps = replaced({pods: observation["gateways"]}, {pods: observation["gateways_after"]}) + gaps
    steps = ", ".join(f"{100 - step['weight']}/{step['weight']}" for step in observation["steps"])
    sound = not failures and not gaps
    number = len(observation["requests"])
    return weighed(
        failures,
        gaps,
        summary=f"{steps} proved, v1 away and back; {number} requests across the switches, none failed" * sound,
        rule=RULE,
        lines=[f"step {100 - step['weight']}/{step['weight']}: {step['summary']}" for step in observation["steps"]]
        if sound
        else [],
        numbers={"requests": number, "steps": [step["weight"] for step in observation["steps"]]},
    )


def _without_v1(site: Site, objects: list[Object], apply: Callable[[list[Object]], None]) -> Observation:
    """Scale v1 to nothing at 0/100, ask, and bring it back."""
    (v1,) = (item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == "appv1")
    replicas = v1["spec"]["replicas"]
    v1["spec"]["replicas"] = 0
    apply(objects)
    began, targets = site.clock.now().isoformat(), ingress.targets(site)[:1] * AWAY_REQUESTS
    observed: Observation = {"began": began, "requests": ingress.send(site, targets)}
    engine.collect(lambda: ingress.collect(site, observed), site)
    v1["spec"]["replicas"] = replicas
    apply(objects)
    return observed
