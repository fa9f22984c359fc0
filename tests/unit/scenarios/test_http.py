"""One GET, against a real server: its own connection, no proxy, errors as observations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typing_extensions import override

from meshstrap.scenarios import http


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            threading.Event().wait(2)
        body = f"{self.headers['Host']} {self.path} {self.client_address[1]}\xff".encode("latin-1")
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "http://192.0.2.1/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(BrokenPipeError):  # the client that waits for no slow answer
            self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_path_query_and_host_arrive_as_given_and_proxies_are_ignored(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:3128")
    reply = http.get(f"{base}/?mark=a-0001", host="canary.example")
    assert (reply.status, reply.error) == (200, "")
    assert reply.body.startswith("canary.example /?mark=a-0001 ")
    assert http.get(base).body.startswith(base.removeprefix("http://") + " / ")


def test_each_request_has_a_connection_of_its_own(base: str) -> None:
    assert len({http.get(base).body for _ in range(5)}) == 5


def test_a_redirect_is_not_followed(base: str) -> None:
    assert http.get(f"{base}/moved").status == 302


def test_no_answer_is_an_error_and_not_an_exception(base: str) -> None:
    late = http.get(f"{base}/slow", timeout=0.2)
    assert (late.status, late.error[:12]) == (None, "TimeoutError")
    closed = http.get("http://127.0.0.1:1/")
    assert closed.status is None and "refused" in closed.error
    assert http.get("http://no-such-host.invalid:80/").status is None


@pytest.mark.parametrize("url", ["https://node/", "node:80", "http://", "file:///x"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no http:// URL"):
        http.get(url)
