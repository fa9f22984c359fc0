"""Time how long after the last rollout an operation that waits for it ends.

    uv run python -m bench.rollout      # on a lab with site.py through; takes the canary off and brings it, 5 times

The rollouts are watched from outside, by a watch of the Deployments that is opened before the run; the operation's end
is when pyinfra starts the next one. Both are read off one clock.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import urllib3
import yaml
from bench.measure import head, row, run, verdict

from meshstrap.kube.connect import connect
from meshstrap.kube.wait import state
from meshstrap.lab import access
from meshstrap.lab.directory import locate
from meshstrap.lab.record import read

ROUNDS = 5
CHECKOUT = Path(__file__).resolve().parents[1]
DEPLOYMENTS = ("appv1", "appv2")
_NEXT = re.compile(r"Starting operation: .*proof of the split")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    lab = locate(os.environ, CHECKOUT)
    kubeconfig = access.write_kubeconfig(lab, read(lab.nodes_file))
    gaps = []
    head("round", "rollouts complete after, s", "operation ends after, s", "later, s")
    for number in range(given.rounds):
        run(["pyinfra", "inventory.py", "deploys/clean.py", "-y"], env={"PYINFRA_PROGRESS": "off"})
        begin, complete, ended = once(kubeconfig)
        gaps.append(ended - complete)
        row(number + 1, f"{complete - begin:.2f}", f"{ended - begin:.2f}", f"{gaps[-1]:.2f}")
    row("median", "", "", f"{statistics.median(gaps):.2f}")
    verdict("seconds from the last rollout to the operation's end, at most", max(gaps), 0.5, at_most=True)


def once(kubeconfig: Path) -> tuple[float, float, float]:
    """Bring the canary; return when it began, when the last rollout was complete, and when the operation ended."""
    complete: dict[str, float] = {}
    watching = threading.Event()
    watch = threading.Thread(target=_watch, args=(kubeconfig, complete, watching), daemon=True)
    watch.start()
    watching.wait()
    begin = time.monotonic()
    command = ["pyinfra", "inventory.py", "deploys/canary.py", "-y", "--data", "prove=false"]
    environment = {**os.environ, "PYINFRA_PROGRESS": "off"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout
    said, ended = [], 0.0
    for line in process.stdout:
        said.append(line)
        if _NEXT.search(line):
            ended = time.monotonic()
    if process.wait() != 0 or not ended:
        sys.exit("".join(said))
    # What the watch has to tell is at most a moment behind.
    watch.join(10)
    return begin, max(complete.values()), ended


def _watch(kubeconfig: Path, complete: dict[str, float], watching: threading.Event) -> None:
    """Note when each of the canary's Deployments is complete; ends when all are."""
    client = connect(yaml.safe_load(kubeconfig.read_text()))
    listed = client.request("GET", "/apis/apps/v1/namespaces/canary/deployments")
    query = f"watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
    pool = urllib3.HTTPSConnectionPool(
        client.host, client.port, ssl_context=client.tls, server_hostname=client.tls_server_name
    )
    url = f"/apis/apps/v1/namespaces/canary/deployments?{query}"
    stream = pool.urlopen("GET", url, preload_content=False, timeout=urllib3.Timeout(connect=5, read=120))
    watching.set()
    rest = b""
    for part in stream.stream(None):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            item = json.loads(line)["object"]
            name = item["metadata"]["name"]
            if state({"apiVersion": "apps/v1", "kind": "Deployment", **item}).ready:
                complete.setdefault(name, time.monotonic())
            else:
                complete.pop(name, None)
        if complete.keys() >= set(DEPLOYMENTS):
            return


if __name__ == "__main__":
    main()
