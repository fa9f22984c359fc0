"""Keep-alive connections to one API server, over the standard library's HTTP client.

Not urllib3, whose retries, redirects and proxies are not wanted here: it takes twice the processor time a request, and
under gevent, where pyinfra runs everything on one core, that is a third of what an object costs.
"""

from __future__ import annotations

import select
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from typing import NamedTuple

from typing_extensions import override

# Seconds for TCP and TLS to be established.
CONNECT_SECONDS = 5.0


class Answer(NamedTuple):
    """What a server answered; `retry_after` as it stands in the header of that name, or empty."""

    status: int
    data: bytes
    retry_after: str


class Connection(HTTPSConnection):
    """One connection, kept open between requests; `exchange` is all that is used of it."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext, server_name: str) -> None:
        super().__init__(host, port, timeout=CONNECT_SECONDS, context=tls)
        self._tls = tls
        self._server_name = server_name

    @override
    def connect(self) -> None:
        """Connect, TCP_NODELAY set, and verify the certificate for the server's name: behind a tunnel not its host."""
        HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)

    @property
    def usable(self) -> bool:
        """Whether it is open: a server that closed an idle connection has made it readable."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> Answer:
        """Send one request and read its answer; raises OSError or HTTPException where the connection breaks.

        Args:
            method: the HTTP method.
            url: path and query.
            body: what is sent with it.
            headers: besides Host and Content-Length.
            timeout: seconds for which nothing may come.
        """
        self.sock.settimeout(timeout)
        self.request(method, url, body=body, headers=headers)
        response = self.getresponse()
        return Answer(response.status, response.read(), response.getheader("Retry-After") or "")


class Pool:
    """Connections to one server, as many as are in use at the same time; safe to share."""

    def __init__(
        self, host: str, port: int, tls: Callable[[], ssl.SSLContext], server_name: str | None, size: int
    ) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        self._server_name = server_name or host
        self._idle: list[Connection] = []
        self._turns = threading.BoundedSemaphore(size)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Give an open connection, when one may be had; one in which anything goes wrong is not used again.

        Raises OSError where none can be opened: nothing was sent then.
        """
        with self._turns:
            connection = self._open()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _open(self) -> Connection:
        # The one that was used last is the most likely to be open still.
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        connection = Connection(self.host, self.port, self._tls(), self._server_name)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection
