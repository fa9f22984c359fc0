"""The judge of an upgrade on what the lab showed (Istio 1.31.0), and on forgeries of it; and the sender itself."""

from __future__ import annotations

import copy
import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from meshstrap.evidence.verdict import Outcome
from meshstrap.kube.errors import KubeError
from meshstrap.scenarios import traffic
from meshstrap.scenarios.traffic import Sender, judge

RECORDED = Path(__file__).parent / "recorded" / "upgrade-1.31.json.gz"

Forgery = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def honest() -> dict[str, Any]:
    observation: dict[str, Any] = json.loads(gzip.decompress(RECORDED.read_bytes()))
    return observation


def test_an_upgrade_without_a_failed_request_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary.startswith("not one of 785 requests failed")
    assert "785 lines with our marks" in verdict.lines[0]
    assert verdict.numbers["failed"] == 0


def refused(seen: dict[str, Any]) -> None:
    seen["requests"][400] |= {"status": None, "body": "", "error": "ConnectionRefusedError: [Errno 111]"}


def unavailable(seen: dict[str, Any]) -> None:
    request = seen["requests"][400]
    request |= {"status": 503, "body": "upstream connect error"}
    seen["log"][request["mark"]] |= {"code": 503, "flags": ["UF"], "details": "upstream_reset_before_response_started"}


def of_another(seen: dict[str, Any]) -> None:
    seen["requests"][400]["body"] = "<h1>Welcome to nginx!</h1>"


def logged_otherwise(seen: dict[str, Any]) -> None:
    seen["log"][seen["requests"][400]["mark"]]["code"] = 503


def logged_twice(seen: dict[str, Any]) -> None:
    seen["twice"].append(seen["requests"][400]["mark"])


def sidecar_of_the_old(seen: dict[str, Any]) -> None:
    seen["sidecars"][0]["revision"] = "default"


def old_image(seen: dict[str, Any]) -> None:
    seen["sidecars"][0]["image"] = "docker.io/istio/proxyv2:1.31.0"


def old_control_plane(seen: dict[str, Any]) -> None:
    seen["left"].append("Deployment istiod")


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (refused, "1 request got no answer (ConnectionRefusedError: [Errno 111]) during: gateways to the new one"),
        (unavailable, "1 request got 503 (UF upstream_reset_before_response_started) during: gateways"),
        (of_another, "got an unknown body"),
        (logged_otherwise, "got 200, and 503 by the gateway's log"),
        (logged_twice, "has two lines"),
        (sidecar_of_the_old, "is of revision default"),
        (old_image, "is docker.io/istio/proxyv2:1.31.0, not docker.io/istio/proxyv2:1.31.0-again"),
        (old_control_plane, "Deployment istiod of the old revision is still there"),
    ],
)
def test_what_contradicts_it_fails(honest: dict[str, Any], forge: Forgery, said: str) -> None:
    seen = copy.deepcopy(honest)
    forge(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.FAIL
    assert said in verdict.summary


def test_a_verdict_of_failure_counts_what_failed(honest: dict[str, Any]) -> None:
    seen = copy.deepcopy(honest)
    refused(seen)
    sidecar_of_the_old(seen)
    verdict = judge(seen)
    assert verdict.numbers["failed"] == 1
    assert any(
        line.startswith("1 of 785 requests failed") and "3 proxies are of revision 1-31-again, 1 are not" in line
        for line in verdict.lines
    )


def no_line(seen: dict[str, Any]) -> None:
    del seen["log"][seen["requests"][400]["mark"]]


def a_pause(seen: dict[str, Any]) -> None:
    del seen["requests"][300:360]


def began_late(seen: dict[str, Any]) -> None:
    del seen["requests"][:60]


def ended_early(seen: dict[str, Any]) -> None:
    del seen["requests"][-60:]


def nothing_sent(seen: dict[str, Any]) -> None:
    seen["requests"].clear()


def no_proxies(seen: dict[str, Any]) -> None:
    seen["sidecars"].clear()


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (no_line, "left no line in a gateway's access log"),
        (a_pause, "nothing was sent for"),
        (began_late, "nothing was sent for"),
        (ended_early, "nothing was sent for"),
        (nothing_sent, "nothing was sent for"),
        (no_proxies, "no pod has a sidecar"),
    ],
)
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery, said: str) -> None:
    seen = copy.deepcopy(honest)
    forge(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert said in verdict.summary


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"v1")

        @override
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_requests_are_sent_while_the_block_runs_each_with_its_own_mark(server: str) -> None:
    ended = threading.Event()
    with Sender(server, "run") as sender:
        ended.wait(0.5)
    marks = [request["mark"] for request in sender.requests]
    assert len(marks) >= 5
    assert marks == [f"run-{index:06d}" for index in range(len(marks))]
    assert {(request["status"], request["body"]) for request in sender.requests} == {(200, "v1")}


def test_a_sender_that_cannot_begin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MOST_SECONDS", "none")
    with (
        pytest.raises(KubeError, match=r"no request to .* came back"),
        Sender("http://127.0.0.1:1", "run"),
    ):
        pass
