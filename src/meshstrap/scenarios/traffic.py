"""Requests without a pause while something is changed under them, and the judgement that not one of them failed.

They are sent by a process of their own: the one that changes the cluster has other things to do for seconds, and a
pause in the traffic would hide what fails in it. Each is sent once, on a connection of its own, with its own mark.

    python -m meshstrap.scenarios.traffic URL RUN SECONDS     # until its standard input is closed, at most SECONDS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

from meshstrap.evidence.verdict import Verdict
from meshstrap.kube import logs, query
from meshstrap.kube.errors import KubeError
from meshstrap.mesh import access_log, gateway
from meshstrap.scenarios import access_lines, http
from meshstrap.scenarios.canary.judge import marker
from meshstrap.scenarios.site import Site
from meshstrap.scenarios.witnesses import sentences, weighed

PAUSE_SECONDS = 0.05
# A pause in which nothing was sent is one in which nothing was seen to work.
LONGEST_PAUSE_SECONDS = 2.0
MOST_SECONDS = 1800
_CONCURRENCY = 32
_TIMEOUT_SECONDS = 10.0
_LOOK_SECONDS = 0.5
_START_SECONDS = 30.0
_END_SECONDS = 30.0
# Lines a look: far more than are written between two looks.
_TAIL = 500


class Sender:
    """Traffic that runs while the `with` block does; afterwards `requests` has what became of each request."""

    def __init__(self, url: str, run: str) -> None:
        self._url, self._run = url, run
        self.requests: list[dict[str, Any]] = []

    def __enter__(self) -> Sender:
        """Begin to send, and wait for the first answer.

        Raises:
            KubeError: nothing came back in time.
        """
        self._replies = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._url, self._run, str(MOST_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=self._replies,
        )
        deadline = time.monotonic() + _START_SECONDS
        while os.fstat(self._replies.fileno()).st_size == 0:
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__()
                raise KubeError(f"no request to {self._url} came back within {_START_SECONDS:g} s; nothing was touched")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        """End, wait for the answers that are under way, and read all."""
        with self._replies:
            if self._process.stdin:
                self._process.stdin.close()
            try:
                self._process.wait(_END_SECONDS)
            finally:
                self._process.kill()
            self._replies.seek(0)
            self.requests = sorted((json.loads(line) for line in self._replies), key=lambda each: str(each["mark"]))


class LogReader:
    """The gateways' lines by mark, read while the `with` block runs: a pod's log goes with the pod."""

    def __init__(self, site: Site, run: str) -> None:
        self._site, self._run = site, run
        self._end = threading.Event()
        self.log: dict[str, dict[str, Any]] = {}
        self.twice: set[str] = set()

    def __enter__(self) -> LogReader:
        """Begin to read."""
        self._thread = threading.Thread(target=self._read_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End after one more look."""
        self._end.set()
        self._thread.join(_END_SECONDS)

    def _read_on(self) -> None:
        while not self._end.wait(_LOOK_SECONDS):
            self.look(tail=_TAIL)

    def look(self, *, tail: int | None = None) -> None:
        """Read all gateways' last lines, or all; those of pods that are ending too."""
        labels = ",".join(f"{key}={value}" for key, value in gateway.SELECTOR.items())
        with suppress(KubeError):
            pods = query.list(self._site.client, "v1", "Pod", gateway.NAMESPACE, labels=labels)
            for name in [pod["metadata"]["name"] for pod in pods]:
                # One that is just gone is no trouble: what of its lines was not read is missed by the judge.
                with suppress(KubeError):
                    self._note(
                        access_lines.marked(
                            name, logs.read(self._site.client, gateway.NAMESPACE, name, gateway.PROXY, tail=tail)
                        )
                    )

    def _note(self, found: Mapping[str, list[dict[str, Any]]]) -> None:
        for mark, lines in found.items():
            if not mark.startswith(self._run):
                continue
            for line in lines:
                if self.log.setdefault(mark, line)["line"] != line["line"]:
                    self.twice.add(mark)


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge an upgrade under traffic. Pure.

    Args:
        observation: `revision` and `image` (of the proxies, as they shall be), `requests`, `log` by mark, `twice`,
            `phases` (name, began and ended as seconds of the requests' own clock), `sidecars`, and `left` of the old.

    Returns:
        FAIL for a failed request, a proxy that is not of the new revision, or something of the old one; INCONCLUSIVE
        where nothing was sent for too long, or a request has no line; else PASS.
    """
    requests, log = observation["requests"], observation["log"]
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}
    for request in requests:
        mark = request["mark"]
        if (said := _failure(request, log.get(mark))) is not None:
            failures.setdefault(f"{said} during: {_phase(observation, request['at'])}", []).append(mark)
        elif mark not in log:
            gaps.setdefault("left no line in a gateway's access log", []).append(mark)
    against = [*sentences(failures), *(f"mark {mark} has two lines" for mark in observation["twice"])]
    proxies, wrong = observation["sidecars"], _proxies(observation)
    against += wrong
    against += [f"{what} of the old revision is still there" for what in observation["left"]]
    missing = [*sentences(gaps), *_pauses(observation)]
    if not proxies:
        missing.append("no pod has a sidecar, so none was moved")
    failed = sum(map(len, failures.values()))
    gateways = sorted({line["pod"] for line in log.values()})
    longest = max((request["milliseconds"] for request in requests), default=0)
    return weighed(
        against,
        missing,
        summary=f"{failed or 'not one'} of {len(requests)} requests failed (the slowest took {longest} ms);"
        f" {len(proxies) - len(wrong)} proxies are of revision {observation['revision']}"
        f"{f', {len(wrong)} are not' if wrong else ''}, and {len(observation['left']) or 'nothing'} of the old is left",
        rule="every request, one each 50 ms from the first step to the last, answered with 200 by one of the canary's"
        " versions, and logged with 200 once by a gateway; no pause of more than"
        f" {LONGEST_PAUSE_SECONDS:g} s; every proxy of the new revision and image",
        lines=[
            f"gateways' access logs: {len(log)} lines with our marks, by {', '.join(gateways) or 'none'}",
            *(
                f"{phase['name']}: {_during(requests, phase)} requests in {phase['ended'] - phase['began']:.1f} s"
                for phase in observation["phases"]
            ),
        ],
        numbers={"requests": len(requests), "failed": failed, "slowest_ms": longest},
    )


def _failure(request: Mapping[str, Any], line: Mapping[str, Any] | None) -> str | None:
    if request["status"] is None:
        return f"got no answer ({request['error']})"
    if request["status"] != 200:
        flags = f" ({','.join(line['flags']) or '-'} {line['details']})" if line else ""
        return f"got {request['status']}{flags}"
    if marker(request["body"]) is None:
        return f"got an unknown body {request['body'].strip()[:60]!r}"
    if line and line["code"] != 200:
        return f"got 200, and {line['code']} by the gateway's log"
    return None


def _phase(observation: Mapping[str, Any], at: float) -> str:
    names = [phase["name"] for phase in observation["phases"] if phase["began"] <= at]
    return names[-1] if names else "before the first step"


def _during(requests: list[Mapping[str, Any]], phase: Mapping[str, Any]) -> int:
    return sum(phase["began"] <= request["at"] < phase["ended"] for request in requests)


def _pauses(observation: Mapping[str, Any]) -> list[str]:
    phases = observation["phases"]
    if not phases:
        return ["no step was noted"]
    times = sorted(
        [request["at"] for request in observation["requests"] if request["at"] >= phases[0]["began"]]
        + [phases[0]["began"], phases[-1]["ended"]]
    )
    longest = max(after - before for before, after in pairwise(times))
    if longest > LONGEST_PAUSE_SECONDS:
        return [f"nothing was sent for {longest:.1f} s"]
    return []


def _proxies(observation: Mapping[str, Any]) -> list[str]:
    wrong = []
    for proxy in observation["sidecars"]:
        if proxy["revision"] != observation["revision"]:
            wrong.append(f"the proxy of {proxy['pod']} is of revision {proxy['revision'] or 'none'}")
        elif proxy["image"] != observation["image"]:
            wrong.append(f"the proxy of {proxy['pod']} is {proxy['image']}, not {observation['image']}")
    return wrong


def _send(url: str, run: str, seconds: float) -> None:
    """Send until standard input ends, and print what became of each request."""
    end, out = threading.Event(), threading.Lock()

    def listen() -> None:
        sys.stdin.read()
        end.set()

    threading.Thread(target=listen, daemon=True).start()

    def one(index: int) -> None:
        mark, at = f"{run}-{index:06d}", time.time()
        reply = http.get(f"{url}/?{access_log.MARK}={mark}", timeout=_TIMEOUT_SECONDS)
        seen = {
            "mark": mark,
            "at": at,
            "status": reply.status,
            "body": reply.body[:200],
            "error": reply.error,
            "milliseconds": reply.milliseconds,
        }
        with out:
            print(json.dumps(seen), flush=True)

    began = time.monotonic()
    with ThreadPoolExecutor(_CONCURRENCY) as workers:
        index = 0
        while not end.wait(max(0.0, began + index * PAUSE_SECONDS - time.monotonic())):
            if time.monotonic() - began > seconds:
                return
            workers.submit(one, index)
            index += 1


if __name__ == "__main__":
    _send(sys.argv[1], sys.argv[2], float(sys.argv[3]))
