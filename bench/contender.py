"""One contender in a process of its own, for `bench/objects.py`: `python -m bench.contender NAME KUBECONFIG MANIFESTS`.

    engine          manifests.load, plan and apply: what is not there is made
    gevent          the same as pyinfra runs it: threads are greenlets
    get, list       by hand: a GET for each object, or a LIST for each kind and namespace, then concurrent dry-runs

Prints JSON: the seconds from the connection to the end, without start-up and reading YAML; how much memory the process
took at most, in MB, and how much of it before the first request; and what the plan was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if sys.argv[1] == "gevent":
    from gevent import monkey

    monkey.patch_all()

import yaml
from bench.measure import clocked

from meshstrap.kube import manifests
from meshstrap.kube.apply import apply
from meshstrap.kube.connect import connect
from meshstrap.kube.plan import plan


def main() -> None:
    name, kubeconfig, path = sys.argv[1:]
    credentials = yaml.safe_load(Path(kubeconfig).read_text())
    objects = manifests.load(Path(path))
    found = ""

    def engine() -> None:
        nonlocal found
        client = connect(credentials)
        planned = plan(client, objects)
        apply(client, planned)
        found = str(planned)

    if name in ("get", "list"):
        # Here, so that the others do not pay for importing urllib3.
        from bench import by_hand

        client = connect(credentials)
        read = by_hand.reads if name == "get" else by_hand.lists
        requests = read(client, objects), by_hand.dry_runs(client, objects)
        before = _peak()
        hand = by_hand.ByHand(client)
        seconds = clocked(lambda: [hand.send(each) for each in requests])
    else:
        before = _peak()
        seconds = clocked(engine)
    print(json.dumps({"seconds": seconds, "peak": _peak(), "before": before, "plan": found}))


def _peak() -> float:
    """Return the most memory that this process has had, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
