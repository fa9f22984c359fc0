"""Time the apply engine on a real API server, side by side with raw HTTP, kubectl and kubernetes.core.

    uv run python -m bench.objects                                  # about 15 minutes on 2 cores
    uv run python -m bench.objects --sizes 200 --rounds 1 --no-ansible
    uv run python -m bench.objects --kubeconfig .lab/kubeconfig --sizes ''    # the canary's objects on a lab's cluster

Needs the bundle (its etcd, kube-apiserver, kubectl and istioctl) and no lab; nothing runs behind the API server.
Contenders take turns and the median of the rounds counts. Read the figures as ratios: the machine is shared, and the
API server has the same cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from bench import by_hand, canary
from bench.ansible import Ansible, local
from bench.measure import alternating, clocked, head, row, run, verdict
from tests.api.apiserver import ApiServer, program

from meshstrap.kube import manifests
from meshstrap.kube.apply import apply
from meshstrap.kube.connect import connect
from meshstrap.kube.parallel import WORKERS
from meshstrap.kube.plan import plan

NAMESPACES = 20
WARM_ROUNDS = 40
COLD_ROUNDS = 7
STEPS = ("create", "no-op", "one changed")
# From here on one round is enough: each takes minutes.
LARGE = 5000

Item = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="200,1000,5000", help="numbers of ConfigMaps")
    parser.add_argument("--rounds", type=int, default=3, help=f"of each size; {LARGE} and more once")
    parser.add_argument("--no-ansible", action="store_true", help="without kubernetes.core")
    parser.add_argument(
        "--sample", type=int, default=200, help="objects in kubernetes.core's loop; more is extrapolated"
    )
    parser.add_argument("--kubeconfig", type=Path, help="of a cluster with the canary, in place of a fresh API server")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshstrap-bench-") as directory:
        scratch = Path(directory)
        if given.kubeconfig:
            unchanged(scratch, given.kubeconfig)
        else:
            with server() as api:
                unchanged(scratch, bring_canary(api))
        ansible = None if given.no_ansible or not given.sizes else Ansible(scratch)
        if ansible:
            print(ansible.versions())
        measured: list[Many] = []
        for size in [int(size) for size in given.sizes.split(",") if size]:
            with server() as api:
                many = Many(api, scratch, size, ansible, given.sample)
                many.measure(given.rounds if size < LARGE else 1)
            many.print()
            measured.append(many)
        growth(measured)


@contextmanager
def server() -> Iterator[ApiServer]:
    """Give a fresh API server."""
    with tempfile.TemporaryDirectory(prefix="meshstrap-bench-api-") as directory:
        api = ApiServer(Path(directory))
        try:
            api.start()
            yield api
        finally:
            api.stop()


def bring_canary(api: ApiServer) -> Path:
    """Put Istio's own definitions and the canary onto an API server; return its kubeconfig."""
    command = [str(program("istioctl")), "manifest", "generate", "--set", "profile=minimal"]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    client = api.client()
    definitions = [item for item in manifests.load(rendered) if item["kind"] == "CustomResourceDefinition"]
    for objects in (definitions, canary.objects()):
        apply(client, plan(client, objects))
    return api.directory / "kubeconfig"


def unchanged(scratch: Path, kubeconfig: Path) -> None:
    """Compare the plan of objects that stand as declared with the same requests by hand."""
    client = connect(yaml.safe_load(kubeconfig.read_text()))
    objects = canary.objects()
    file = scratch / "canary.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    if (found := str(plan(client, objects))) != f"{len(objects)} unchanged":
        sys.exit(f"the canary does not stand there as declared: {found}")
    requests = by_hand.reads(client, objects), by_hand.dry_runs(client, objects)
    hand = by_hand.ByHand(client)
    warm = alternating(
        WARM_ROUNDS,
        {
            "raw": lambda: clocked(lambda: [hand.send(each) for each in requests]),
            "engine": lambda: clocked(lambda: plan(client, objects)),
            "prune": lambda: clocked(lambda: plan(client, objects, owner="canary", prune=True)),
        },
    )
    cold = alternating(
        COLD_ROUNDS,
        {name: lambda name=name: contend(name, kubeconfig, file)["seconds"] for name in ("get", "engine", "gevent")},
    )
    head(f"no-op, the canary's {len(objects)} objects, {WORKERS} workers on both sides", "ms", "to raw HTTP")
    milliseconds("raw keep-alive HTTP: the same GETs, then the same dry-runs", warm["raw"], warm["raw"])
    milliseconds("engine, connections and discovery there", warm["engine"], warm["raw"])
    milliseconds("engine, with prune (LIST of every kind by label)", warm["prune"], warm["raw"])
    milliseconds("raw HTTP, new connections", cold["get"], cold["get"])
    milliseconds("engine, new connections, nothing discovered", cold["engine"], cold["get"])
    milliseconds("the same under gevent, as pyinfra runs it", cold["gevent"], cold["get"])
    verdict("no-op of the canary's objects to raw keep-alive HTTP", warm["engine"] / warm["raw"], 1.3, at_most=True)


def milliseconds(what: str, seconds: float, base: float) -> None:
    row(what, f"{seconds * 1000:.0f}", f"{seconds / base:.2f}")


def contend(name: str, kubeconfig: Path, file: Path) -> dict[str, Any]:
    """Run one contender in a process of its own; `whole` are the seconds of that process."""
    ended = run([sys.executable, "-m", "bench.contender", name, kubeconfig, file])
    return {**json.loads(ended.output), "whole": ended.seconds}


class Many:
    """ConfigMaps over 20 namespaces: create, no-op, one changed; each contender has namespaces of its own."""

    def __init__(self, api: ApiServer, scratch: Path, size: int, ansible: Ansible | None, sample: int) -> None:
        self._kubeconfig = api.directory / "kubeconfig"
        self._client = api.client()
        self._kubectl = [str(program("kubectl")), f"--kubeconfig={self._kubeconfig}"]
        self._scratch = scratch
        self.size = size
        self._ansible = ansible
        self._sample = min(sample, size)
        self._noted: dict[tuple[str, str], list[float]] = defaultdict(list)

    def measure(self, rounds: int) -> None:
        """Run all contenders in turns."""
        contenders = {"engine": self._engine, "gevent": self._gevent, "kubectl": self._diff_and_apply}
        if self._ansible:
            contenders |= {"loop": self._loop} if self.size >= LARGE else {"task": self._one_task, "loop": self._loop}
        for number in range(rounds):
            # kubernetes.core takes minutes, and the same in each round.
            taking_part = {
                name: each for name, each in contenders.items() if name not in ("task", "loop") or number == 0
            }
            declared = {name: self._declare(f"{name}-{number}") for name in taking_part}
            for step in STEPS:
                for name, contender in taking_part.items():
                    if step == STEPS[-1]:
                        declared[name][-1]["data"]["key"] = "changed"
                    contender(step, self._written(name, declared[name]))

    def print(self) -> None:
        """Print the table of this size and what it says of the figures."""
        head(
            f"{self.size} ConfigMaps in {NAMESPACES} namespaces, seconds",
            *(
                "engine",
                "engine under gevent",
                "kubectl diff + apply",
                "kubernetes.core, one task",
                "kubernetes.core, loop",
            ),
        )
        for step in STEPS:
            engine = self.median("engine", step)
            cells = [f"{engine:.2f}"]
            for name in ("gevent", "kubectl", "task", "loop"):
                seconds = self.median(name, step)
                cells.append(f"{seconds:.2f} ({seconds / engine:.1f})" if seconds else "-")
            row(step, *cells)
        if self._sample < self.size:
            print(f"The loop was run over 1 and over {self._sample} objects and extrapolated to {self.size}.")
        for step in STEPS:
            for name, what, wanted in (
                ("loop", "kubernetes.core in a loop", 5),
                ("kubectl", "kubectl diff + apply", 2),
            ):
                if seconds := self.median(name, step):
                    ratio = seconds / self.median("engine", step)
                    verdict(f"{self.size} objects, {step}: {what} to engine", ratio, wanted, at_most=False)
        hand = self.median("by hand", "no-op")
        for name in ("engine", "gevent"):
            ratio = self.median(f"{name} inside", "no-op") / hand
            verdict(
                f"{self.size} objects, no-op: {name} to LIST + dry-runs by hand ({hand:.2f} s)",
                ratio,
                1.3,
                at_most=True,
            )

    def median(self, name: str, step: str) -> float:
        """Return the median seconds (or MB) of a contender; 0 if it did not take part."""
        return statistics.median(self._noted[name, step] or [0.0])

    def _declare(self, prefix: str) -> list[Item]:
        """Make the objects of one contender, and their namespaces in the cluster."""
        spaces = [f"{prefix}-{number}" for number in range(NAMESPACES)]
        apply(self._client, plan(self._client, [_item("Namespace", name) for name in spaces]))
        return [
            {**_item("ConfigMap", f"c{number}", spaces[number % NAMESPACES]), "data": {"key": f"value {number}"}}
            for number in range(self.size)
        ]

    def _written(self, name: str, objects: list[Item]) -> Path:
        file = self._scratch / f"{name}.yaml"
        # JSON is YAML; all contenders read it fastest so.
        file.write_text("".join(f"---\n{json.dumps(item)}\n" for item in objects))
        return file

    def _engine(self, step: str, file: Path, name: str = "engine") -> None:
        ended = contend(name, self._kubeconfig, file)
        self._noted[name, step].append(ended["whole"])
        self._noted[f"{name} inside", step].append(ended["seconds"])
        self._noted[f"{name} peak", step].append(ended["peak"])
        self._noted[f"{name} before", step].append(ended["before"])
        if name == "engine" and step == "no-op":
            self._noted["by hand", step].append(contend("list", self._kubeconfig, file)["seconds"])

    def _gevent(self, step: str, file: Path) -> None:
        self._engine(step, file, "gevent")

    def _diff_and_apply(self, step: str, file: Path) -> None:
        diff = run([*self._kubectl, "diff", "--server-side", "-f", file], accept=(0, 1))
        applied = run([*self._kubectl, "apply", "--server-side", "--validate=false", "-f", file])
        self._noted["kubectl", step].append(diff.seconds + applied.seconds)

    def _one_task(self, step: str, file: Path) -> None:
        assert self._ansible
        ended = self._ansible.play(
            local({"kubernetes.core.k8s": {"kubeconfig": str(self._kubeconfig), "src": str(file)}})
        )
        self._noted["task", step].append(ended.seconds)

    def _loop(self, step: str, file: Path) -> None:
        assert self._ansible
        objects = [json.loads(line) for line in file.read_text().splitlines() if line != "---"]

        def over(some: list[Item]) -> float:
            task = {
                "kubernetes.core.k8s": {"kubeconfig": str(self._kubeconfig), "definition": "{{ item }}"},
                "loop": some,
                "loop_control": {"label": "{{ item.metadata.name }}"},
            }
            assert self._ansible
            return self._ansible.play(local(task)).seconds

        seconds = over(objects[-self._sample :])
        if self._sample < self.size:
            one = over(objects[:1])
            seconds += (seconds - one) / (self._sample - 1) * (self.size - self._sample)
        self._noted["loop", step].append(seconds)


def _item(kind: str, name: str, namespace: str | None = None) -> Item:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def growth(measured: list[Many]) -> None:
    """Print how time and memory grow with the number of objects."""
    head("objects", *(f"{step}, ms an object" for step in STEPS), "peak memory, MB", "of it before the first request")
    for many in measured:
        row(
            many.size,
            *(f"{many.median('engine inside', step) / many.size * 1000:.2f}" for step in STEPS),
            f"{max(many.median('engine peak', step) for step in STEPS):.0f}",
            f"{max(many.median('engine before', step) for step in STEPS):.0f}",
        )


if __name__ == "__main__":
    main()
