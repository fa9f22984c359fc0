"""Run a scenario's proof, phase by phase: preflight, compare, ready, converge, control, probe, collect, judge.

Waiting for the cluster (ready, converge, collect) is bounded; a probe is never repeated until it pleases.

A scenario is a folder with `manifests.yaml` and a subclass of `Scenario`. What it claims and how it looks is its own;
the order of the phases, the deadlines, the evidence file and what an interrupted look means are here, once.
Applying the objects is the business of the operation, and is over when a proof begins.
"""

from __future__ import annotations

import copy
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from meshstrap.evidence import report
from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.kube import manifests, query, webhooks
from meshstrap.kube.errors import KubeError
from meshstrap.kube.plan import Change, plan
from meshstrap.kube.wait import NotReady, wait
from meshstrap.mesh import admission, decisive, revision
from meshstrap.mesh.errors import MeshError
from meshstrap.scenarios import ingress, neighbours, restarts, rivals, surroundings
from meshstrap.scenarios.rivals import Rival
from meshstrap.scenarios.site import Node, Site
from meshstrap.scenarios.witnesses import weighed

Object = dict[str, Any]
# Observations are what JSON can hold: they are written down as they were seen, and judged from what was written.
Observation = dict[str, Any]

CONVERGE_SECONDS = 60.0
CONVERGE_PAUSE = 0.2
# Where others' routing is in force, the same difference for so long will not go away by waiting.
RIVALLED_SECONDS = 15.0
# Access-log lines were seen 0.5 to 0.9 s after the request; a loaded machine needs longer.
COLLECT_SECONDS = 15.0
COLLECT_PAUSE = 0.25

_KUBECTL = re.compile(r"\bkubectl(?= )")


@dataclass(frozen=True)
class Round:
    """One declared series of requests, and the chance of refusing an honest mesh that it is judged by."""

    n: int
    alpha: Fraction


@dataclass(frozen=True)
class Proof:
    """A finished proof: the verdict, the evidence file, and the command with which to look by hand."""

    scenario: str
    verdict: Verdict
    report: Path
    try_it: str
    way: str = ""

    @property
    def lines(self) -> list[str]:
        """The lines for the terminal: verdict, reasons and witnesses, rule, evidence, what to try."""
        return [
            f"{self.scenario}: {self.verdict.line}",
            *(f"  {line}" for line in self.verdict.lines),
            f"  judged by: {self.verdict.rule}",
            f"  evidence: {self.report}",
            *([f"  way: {self.way}"] if self.way else []),
            *([f"  try it: {self.try_it}"] if self.try_it else []),
        ]


class Scenario(ABC):
    """What a scenario tells the engine. One instance a scenario; it keeps nothing between calls."""

    name: str
    namespace: str

    @property
    def owner(self) -> str:
        """The value of the owner label on the scenario's objects."""
        return self.name

    def parameters(self, data: Mapping[str, object]) -> dict[str, Any]:
        """Read the scenario's parameters from the site's flat data; there are none unless a scenario has its own.

        Raises:
            ParameterError: a datum that cannot be used.
        """
        return {}

    def set_parameters(self, objects: list[Object], parameters: Mapping[str, Any]) -> None:  # noqa: B027 - may be left
        """Set the parameters on the parsed manifests, in place."""

    @abstractmethod
    def claim(self, parameters: Mapping[str, Any]) -> str:
        """Say in one sentence what is to be proved."""

    @abstractmethod
    def preflight(self, site: Site, objects: list[Object]) -> list[str]:
        """Look for what the proof needs; each sentence names what is missing and what to do. Changes nothing.

        Logs that cannot be read and others' rules are looked for by the engine, for every scenario.
        """

    @abstractmethod
    def differences(self, site: Site, objects: list[Object]) -> list[str]:
        """Compare what each relevant proxy holds with the objects; a sentence a difference, empty when converged."""

    def control(self, site: Site, objects: list[Object]) -> Observation:
        """Observe the negative control: without the cause, the effect is absent.

        Nothing where the control is declared beside the rest, and is asked and judged with it.
        """
        return {}

    @abstractmethod
    def rounds(self, parameters: Mapping[str, Any]) -> tuple[Round, ...]:
        """Declare the series of requests before the first one is sent; the last one alone decides if it is run."""

    @abstractmethod
    def probe(self, site: Site, parameters: Mapping[str, Any], series: Round) -> Observation:
        """Send a series, once, and note what came back for each request."""

    @abstractmethod
    def collect(self, site: Site, observed: Observation) -> bool:
        """Add what other witnesses say to what `probe` noted; tell whether every request is accounted for."""

    def undecided(self, observation: Observation) -> bool:
        """Tell whether the next declared round is to decide; not where one is declared. Pure."""
        return False

    @abstractmethod
    def judge(self, observation: Observation) -> Verdict:
        """Judge what was observed. Pure."""

    def try_it(self, observation: Observation) -> str:
        """Give the command with which a person can look at what was proved; empty for none. Pure."""
        return ""

    def way(self, site: Site, objects: list[Object]) -> str:
        """Follow a request on its way to the pods, as it is read from the live cluster; empty where there is none."""
        rules = [item for item in objects if item["kind"] == "VirtualService" and ingress.needs_gateway([item])]
        return ingress.way(site, rules[0]) if rules else ""

    @property
    def manifests(self) -> Path:
        """The scenario's manifests, beside its module."""
        module = sys.modules[type(self).__module__]
        return Path(str(module.__file__)).with_name("manifests.yaml")

    def objects(
        self,
        parameters: Mapping[str, Any],
        *,
        image: Callable[[str], str] = lambda reference: reference,
        istio_revision: str = revision.DEFAULT,
    ) -> list[Object]:
        """Give the objects to apply: the manifests with parameters set, images renamed and sidecars of a revision.

        Args:
            parameters: what `parameters` gave.
            image: gives the reference to use for a reference in the manifests (data `images`).
            istio_revision: the site's revision of Istio.

        Returns:
            A fresh copy of the objects, in the order of the file.
        """
        objects = copy.deepcopy(manifests.load(self.manifests))
        self.set_parameters(objects, parameters)
        for item in objects:
            for container in _containers(item):
                container["image"] = image(container["image"])
            if item["kind"] == "Namespace":
                _label(item, istio_revision)
        return objects


def prove(
    scenario: Scenario,
    data: Mapping[str, object],
    site: Site,
    *,
    image: Callable[[str], str] = lambda reference: reference,
) -> Proof:
    """Prove a scenario on a site where it is applied; changes nothing there.

    Args:
        scenario: what to prove.
        data: the site's flat data, for the scenario's parameters.
        site: where.
        image: gives the reference to use for a reference in the manifests, as it was applied.

    Returns:
        The verdict and the evidence file that was written; whatever the cluster or the network does is a verdict.

    Raises:
        ParameterError: the data hold a parameter that cannot be used.
        OSError: the evidence file cannot be written.
    """
    parameters = scenario.parameters(data)
    objects = scenario.objects(parameters, image=image, istio_revision=site.revision)
    started = site.clock.now()
    observation: Observation = {"parameters": dict(parameters), "seconds": {}}
    try:
        verdict = _phases(scenario, parameters, objects, site, observation)
    except (KubeError, MeshError) as error:
        verdict = Verdict(
            Outcome.INCONCLUSIVE, f"the cluster could not be asked: {error}", "every phase must see what it looks at"
        )
    verdict = rivals.told(verdict, _rivals(scenario, objects, site, observation, again=not verdict.passed))
    content = {
        "scenario": scenario.name,
        "claim": scenario.claim(parameters),
        "verdict": verdict.as_dict(),
        "started": started.isoformat(),
        "finished": site.clock.now().isoformat(),
        "site": surroundings.note(site, scenario.namespace),
        "objects": objects,
        "observation": observation,
    }
    path = report.write(site.reports, scenario.name, content, at=started)
    if not verdict.passed:
        return Proof(scenario.name, verdict, path, "")
    by_hand = _KUBECTL.sub(lambda _: site.kubectl, scenario.try_it(observation))
    if by_hand and ingress.needs_gateway(objects) and site.nodes[0].by:
        by_hand = f"(on {site.nodes[0].by}) {by_hand}"
    return Proof(scenario.name, verdict, path, by_hand, _way(scenario, site, objects))


def _rivals(
    scenario: Scenario, objects: list[Object], site: Site, observation: Observation, *, again: bool
) -> list[Rival]:
    """Give the rivals that preflight found, and those that came since, if it is worth another look."""
    known = [Rival(**rival) for rival in observation.get("rivals", [])]
    if again:
        try:
            found = neighbours.look(site, scenario.namespace, objects).rivals
            known = list({(rival.name, rival.what): rival for rival in (*known, *found)}.values())
        except (KubeError, MeshError):
            return known  # That the cluster cannot be asked is told already.
        observation["rivals"] = [asdict(rival) for rival in known]
    return known


def _way(scenario: Scenario, site: Site, objects: list[Object]) -> str:
    """Give the way for people; that it cannot be read takes nothing from a proof."""
    try:
        return scenario.way(site, objects)
    except (KubeError, MeshError) as error:
        return f"cannot be read: {error}"


def _phases(
    scenario: Scenario, parameters: dict[str, Any], objects: list[Object], site: Site, observation: Observation
) -> Verdict:
    phase = _Phases(scenario.name, site, observation)
    phase.begin("preflight")
    through_gateway = ingress.needs_gateway(objects)
    lacks = restarts.awaited(
        lambda: scenario.preflight(site, objects),
        lambda: query.list(site.client, "v1", "Pod", scenario.namespace),
        site,
    )
    if through_gateway:
        site, observation["not_asked"] = ingress.answering(site)
    beside = neighbours.look(site, scenario.namespace, objects)
    observation["rivals"] = [asdict(rival) for rival in beside.rivals]
    missing = [*beside.lacks, *lacks]
    observation["missing"] = missing
    if missing:
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"not proved: {missing[0]}",
            "the proof needs what preflight names",
            tuple(missing[1:]),
        )
    phase.begin("compare")
    made, away = webhooks.admitted(
        site.client,
        lambda client: plan(client, objects, owner=scenario.owner, decides=decisive.decides),
        seconds=CONVERGE_SECONDS,
        progress=lambda line: site.progress(f"waiting for a webhook: {line}"),
    )
    drift, unknown = compared(made.pending)
    if through_gateway:
        drift += ingress.service_differences(site)
    observation["drift"], observation["not_compared"] = drift, unknown
    if drift or unknown:
        return weighed(
            [f"the cluster does not hold what is declared: {line}" for line in drift[:1]] + drift[1:],
            admission.next_steps(away) + [f"the API server could not compare {line}" for line in unknown],
            summary="",
            rule="every declared object is on the cluster as declared, by the API server's own dry-run; left what"
            f" the cluster holds, right what is declared (deploys/{scenario.name}.py makes it so)",
        )
    phase.begin("ready")
    try:
        # A rollout that is under way still has pods of the old template, which are not what was declared.
        wait(site.client, objects, timeout=CONVERGE_SECONDS)
    except NotReady as error:
        return Verdict(
            Outcome.FAIL,
            "what is declared is not ready: " + " ".join(str(error).splitlines()[:2]),
            f"every declared object is ready, and its rollout over, within {CONVERGE_SECONDS:g} s",
            tuple(str(error).splitlines()[2:]),
        )
    phase.begin("converge")
    rivalled = any(rival.diverts for rival in beside.rivals)
    steady = RIVALLED_SECONDS if rivalled else CONVERGE_SECONDS
    differences = converge(lambda: scenario.differences(site, objects), site, steady=steady)
    observation["differences"] = differences
    if differences:
        return Verdict(
            Outcome.FAIL,
            f"the proxies do not hold the declared configuration: {differences[0]}",
            f"every relevant proxy holds the declared routes and endpoints within {CONVERGE_SECONDS:g} s, or"
            f" {RIVALLED_SECONDS:g} s without a change where others' routing is in force",
            tuple(differences[1:]),
        )
    phase.begin("control")
    observation["control"] = scenario.control(site, objects)
    observation["rounds"] = []
    for series in scenario.rounds(parameters):
        phase.begin(f"probe of {series.n}")
        observed = {"n": series.n, "alpha": str(series.alpha), **scenario.probe(site, parameters, series)}
        observation["rounds"].append(observed)
        phase.begin(f"collect of {series.n}")
        collect(lambda: scenario.collect(site, observed), site)  # noqa: B023 - called before the next round
        if not scenario.undecided(observation):
            break
    phase.begin("judge")
    verdict = scenario.judge(observation)
    return reached(verdict, site.nodes, observation["not_asked"]) if through_gateway else verdict


def reached(verdict: Verdict, nodes: Iterable[Node], not_asked: Sequence[str]) -> Verdict:
    """Say with a PASS which nodes were not asked as people ask them, so that nobody takes it for more than it is. Pure.

    Args:
        verdict: the judge's.
        nodes: those that were asked.
        not_asked: names of nodes that are declared not to answer.
    """
    if not verdict.passed:
        return verdict
    around = "only by way of {0.by}, since it cannot be reached from here"
    detours = [f"{node.name} {around.format(node)}" for node in nodes if node.by]
    lines = list(verdict.lines)
    if not_asked:
        lines.append(f"not asked, since externalTrafficPolicy Local is declared: {', '.join(not_asked)}")
    return replace(verdict, summary="; ".join([verdict.summary, *detours]), lines=tuple(lines))


def remains(scenario: Scenario, site: Site) -> list[str]:
    """Look, for at most 60 s, whether a scenario that was removed is gone from cluster and gateways.

    Args:
        scenario: what was removed.
        site: where.

    Returns:
        A sentence for each thing that is still there; empty when all is gone.

    Raises:
        KubeError, MeshError: the cluster or a gateway cannot be asked.
    """

    def look() -> list[str]:
        namespace = query.get(site.client, "v1", "Namespace", scenario.namespace)
        left = [f"namespace {scenario.namespace} is still there"] if namespace else []
        return left + ingress.remains(site, scenario.namespace)

    return converge(look, site)


def converge(look: Callable[[], list[str]], site: Site, *, steady: float = CONVERGE_SECONDS) -> list[str]:
    """Look until nothing differs, at most 60 s; the only thing in a proof that is retried.

    Args:
        look: gives the differences that are left.
        site: whose clock and progress are used.
        steady: seconds after which the same differences are taken as final.

    Returns:
        The differences seen last; empty when converged.
    """
    since = began = site.clock.seconds()
    before: list[str] | None = None
    while True:
        differences = look()
        now = site.clock.seconds()
        if differences != before:
            before, since = differences, now
        if not differences or now - began >= CONVERGE_SECONDS or now - since >= steady:
            return differences
        site.progress(f"waiting for the proxies: {differences[0]}")
        site.clock.sleep(CONVERGE_PAUSE)


def collect(look: Callable[[], bool], site: Site) -> None:
    """Look until every request is accounted for, at most 15 s; what is missing then is for the judge to say."""
    deadline = site.clock.seconds() + COLLECT_SECONDS
    while not look() and site.clock.seconds() < deadline:
        site.clock.sleep(COLLECT_PAUSE)


def declared(objects: list[Object], kind: str) -> Object:
    """Give the one object of a kind that a scenario declares.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [item for item in objects if item["kind"] == kind]
    if len(found) != 1:
        raise ValueError(f"the manifests declare {len(found)} objects of kind {kind}, not one")
    return found[0]


class _Phases:
    """Say which phase runs and note how long each took."""

    def __init__(self, scenario: str, site: Site, observation: Observation) -> None:
        self._scenario, self._site, self._seconds = scenario, site, observation["seconds"]
        self._name, self._began = "", 0.0

    def begin(self, name: str) -> None:
        """End the phase before and begin one."""
        now = self._site.clock.seconds()
        if self._name:
            self._seconds[self._name] = round(now - self._began, 3)
        self._name, self._began = name, now
        self._site.progress(f"{self._scenario}: {name}")


def compared(pending: Iterable[Change]) -> tuple[list[str], list[str]]:
    """Say of objects that are not seen to be as declared which differ, and which the API server could not compare.

    A webhook that is away, for one, keeps the server from its dry-run: nothing differs for that.

    Args:
        pending: the changes of a plan.

    Returns:
        A sentence for each that differs, its fields as `path: live -> declared`; and one for each not compared.
    """
    drift, unknown = [], []
    for change in pending:
        if change.error and not change.immutable and not change.conflicts:
            unknown.append(f"{change.ref}: {change.error}")
        elif change.error or change.fields or change.outcome != "configured":
            # Who holds a field is no matter here: where the values are the declared ones, nothing differs.
            fields = ", ".join(str(field) for field in change.fields)
            drift.append(f"{change.ref}: {change.error or fields or change.note or 'is not there'}")
    return drift, unknown


def _containers(item: Object) -> list[dict[str, Any]]:
    """List the containers of a Pod, a workload's template or a CronJob's."""
    spec = item.get("spec", {})
    if item["kind"] == "CronJob":
        spec = spec.get("jobTemplate", {}).get("spec", {})
    if item["kind"] != "Pod":
        spec = spec.get("template", {}).get("spec", {})
    return [container for key in ("initContainers", "containers") for container in spec.get(key, [])]


def _label(namespace: Object, istio_revision: str) -> None:
    """Have a namespace that asks for sidecars ask for those of a revision."""
    labels = namespace["metadata"].get("labels", {})
    if labels.get("istio-injection") == "enabled":
        del labels["istio-injection"]
        labels |= {key: value for key, value in revision.injection_labels(istio_revision).items() if value}
