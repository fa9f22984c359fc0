"""A connection to one API server: kubeconfig in memory, keep-alive HTTP, patience with short outages.

Plain HTTP rather than the kubernetes package's client: a quarter of the processor time per request, one pool that
threads and gevent greenlets share, and no key ever written to a temporary file.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from typing_extensions import override

from meshstrap.kube.credentials import Credentials
from meshstrap.kube.discovery import Discovery, Resource
from meshstrap.kube.errors import ApiError, ApiUnreachable, ApiUntrusted, KubeError, UnsupportedVersion
from meshstrap.kube.pool import Pool

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

APPLY_PATCH = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"

# As many requests as are worth having in flight to one API server; more only queue there.
CONNECTIONS = 16

# Answers that mean "not now": the server is busy, restarting, electing a leader, or a webhook's pod is not up yet.
_BUSY = re.compile(
    r"leader changed|etcdserver: (request timed out|no leader|too many requests)|the server is currently unable"
    r"|failed calling webhook.*(connection refused|connection reset|no route to host|i/o timeout|EOF"
    r"|no endpoints available|deadline exceeded)"
)

# The API server reads an apply patch as YAML, in which these are line breaks (folded with the blanks around them) or
# forbidden; as JSON's escapes they arrive. Source: yaml.org/spec/1.1, sections 4.1.1 and 4.1.4.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

# One discovery per cluster and process, so that each of a run's many clients need not ask again.
_discoveries: dict[str, Discovery] = {}


class Client:
    """JSON requests to one API server; made by `connect`, safe to share between threads and greenlets."""

    def __init__(
        self,
        pool: Pool,
        *,
        credentials: Credentials,
        tls_server_name: str | None,
        address: str,
        prefix: str,
        patience: float,
        discovery: Discovery,
    ) -> None:
        self._pool = pool
        self._credentials = credentials
        self.tls_server_name = tls_server_name
        self.address = address
        self.prefix = prefix
        self.patience = patience
        # Services of webhooks, as refusals spell them (name.namespace.svc), for which nothing is tried again.
        self.unanswered: frozenset[str] = frozenset()
        self._discovery = discovery

    @override
    def __repr__(self) -> str:
        return f"<Client {self.address}>"

    @property
    def host(self) -> str:
        """Host name or address that requests go to."""
        return self._pool.host

    @property
    def port(self) -> int:
        """TCP port that requests go to."""
        return self._pool.port

    @property
    def tls(self) -> ssl.SSLContext:
        """TLS settings of requests, our certificate in them."""
        return self._credentials.tls

    def authorization(self) -> dict[str, str]:
        """Return the headers that identify us (a bearer token), for protocols other than plain HTTP: secret."""
        self._credentials.current()
        return dict(self._credentials.headers)

    def close(self) -> None:
        """Close the idle connections; a later request opens new ones."""
        self._pool.close()

    def version(self) -> str:
        """Return the cluster's version, as in "v1.34.10"; refuses clusters without server-side apply.

        Asked once per cluster and process, so this is no sign that the server answers now: GET /readyz is.

        Raises UnsupportedVersion below Kubernetes 1.22, and what `request` raises.
        """
        if self._discovery.version is None:
            self._discovery.version = supported(self.request("GET", "/version"), self.address)
        return self._discovery.version

    def resource(self, api_version: str, kind: str) -> Resource:
        """Return where the cluster serves a kind; the answer is cached, a missing kind is asked for again.

        Raises UnknownKind where it is not served.
        """
        self.version()
        return self._discovery.resource(self, api_version, kind)

    def discover(self, api_versions: Iterable[str]) -> None:
        """Learn what kinds some groups and versions serve, all at once, before each is asked for in its turn."""
        self._discovery.learn(self, api_versions)

    def resources(self) -> list[Resource]:
        """Return every kind the cluster serves, each once, in its preferred version; asked for anew."""
        self.version()
        return self._discovery.everything(self)

    def versions(self) -> dict[str, list[str]]:
        """Return the apiVersions in which the cluster serves each kind, of whatever group; asked for anew."""
        return self._discovery.versions(self)

    def request(
        self,
        method: Method,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 60.0,
        patience: float | None = None,
    ) -> Any:
        """Send one request and return the decoded JSON answer.

        Args:
            method: the HTTP method; all but POST are sent again where the answer was lost.
            path: below the server, from the first slash, quoted where needed.
            query: query parameters.
            body: data that JSON can hold, or None.
            content_type: of the body.
            accept: wanted form of the answer.
            timeout: seconds to wait for one answer (not counting repetitions).
            patience: seconds for which to go on trying; the client's own if None.

        Raises ApiError for a refusal (one that may pass: after `patience` seconds), ApiUnreachable when the server
        stayed away for as long, ApiUntrusted where TLS fails for good, KubeError where the answer is no JSON.
        """
        raw = self.fetch(
            method,
            path,
            query=query,
            body=body,
            content_type=content_type,
            accept=accept,
            timeout=timeout,
            patience=patience,
        )
        try:
            return json.loads(raw)
        except ValueError:
            raise KubeError(
                f"{self.address} answers {method} {path} with what is no JSON; is that the API server?"
            ) from None

    def fetch(
        self,
        method: Method,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "*/*",
        timeout: float = 60.0,
        patience: float | None = None,
    ) -> bytes:
        """Send one request and return the answer's bytes; arguments and errors as in `request`."""
        url = self.prefix + (f"{path}?{urlencode(query)}" if query else path)
        # Without a name of the program in it, a write would be recorded as by an unknown field manager.
        headers = {"Accept": accept, "User-Agent": "meshstrap"}
        data = None if body is None else _encoded(body)
        if data is not None:
            headers["Content-Type"] = content_type
        patience = self.patience if patience is None else patience
        began = time.monotonic()
        deadline = began + patience
        attempt, renewed = 0, False
        while True:
            credentials = self._credentials.current()
            trouble, retry_after, refusal, sent = "", 0.0, None, False
            try:
                with self._pool.connection() as connection:
                    sent = True
                    answer = connection.exchange(method, url, data, {**headers, **self._credentials.headers}, timeout)
            except (OSError, HTTPException) as error:
                if _certificate_trouble(error):
                    raise ApiUntrusted(self._untrusted(error)) from None
                trouble = _plain(error)
                if method == "POST" and sent:
                    raise ApiUnreachable(f"{self.address} broke off while answering: {trouble}") from None
            else:
                if answer.status < 300:
                    return answer.data
                refusal = _refusal(answer.status, answer.data)
                if refusal.status == 401 and not renewed and self._credentials.renew(credentials):
                    # A certificate belongs to a connection.
                    self._pool.close()
                    renewed = True
                    continue
                hopeless = any(f"//{service}" in refusal.message for service in self.unanswered)
                if hopeless or not _transient(refusal) or (method == "POST" and refusal.status == 502):
                    raise refusal
                with suppress(ValueError):
                    retry_after = float(answer.retry_after)
            # 50 ms, 100 ms, ... 1 s, each a little off, so that many workers do not come back as one.
            pause = max(min(0.05 * 2**attempt, 1.0) * random.uniform(0.8, 1.2), min(retry_after, 5.0))
            attempt += 1
            if time.monotonic() + pause > deadline:
                if refusal:
                    raise refusal
                tried = time.monotonic() - began
                raise ApiUnreachable(
                    f"the API server at {self.address} does not answer: {trouble} (tried for {tried:.0f} s). "
                    "Is kube-apiserver running on the control plane?"
                )
            time.sleep(pause)

    def _untrusted(self, error: Exception) -> str:
        name = self.tls_server_name or self.host
        return (
            f"TLS with the API server at {self.address} failed: {_plain(error)}. The kubeconfig's CA and client "
            f"certificate must be this cluster's, and the server's certificate must carry the name {name!r}"
        )


def supported(answer: Mapping[str, Any], address: str) -> str:
    """Return the version in a server's answer to GET /version, such as "v1.34.10" (some add "+" to the minor).

    Raises UnsupportedVersion below Kubernetes 1.22, where server-side apply was not yet what it is.
    """
    version = str(answer.get("gitVersion"))
    numbers = [int(re.sub(r"\D.*", "", str(answer.get(part, ""))) or 0) for part in ("major", "minor")]
    if numbers < [1, 22]:
        raise UnsupportedVersion(f"{address} runs Kubernetes {version}; server-side apply needs 1.22 or newer")
    return version


def connect(
    kubeconfig: Mapping[str, Any],
    *,
    server: str | None = None,
    tls_server_name: str | None = None,
    context: str | None = None,
    patience: float = 15.0,
) -> Client:
    """Make a client from a kubeconfig; sends nothing yet.

    Proxy variables and REQUESTS_CA_BUNDLE in the environment are ignored; certificates are always verified.

    Args:
        kubeconfig: the decoded document. Certificates and keys as data (kept in memory) or as file paths; a token,
            a token file, or an exec plugin.
        server: URL that replaces the kubeconfig's, such as a tunnel's "https://127.0.0.1:40123".
        tls_server_name: name to ask for and to verify in the server's certificate ("kubernetes" through a tunnel).
        context: name of the context to use; the current one if None.
        patience: seconds for which a server that is away, restarting or overloaded is tried again.

    Raises KubeError where the kubeconfig is incomplete.
    """
    cluster, user = _selected(kubeconfig, context)
    address = server or cluster.get("server") or ""
    url = urlsplit(address)
    if url.scheme != "https" or not url.hostname:
        raise KubeError(f"kubeconfig: the server must be an https:// URL, not {address!r}")
    if cluster.get("insecure-skip-tls-verify"):
        raise KubeError("kubeconfig: insecure-skip-tls-verify is refused; give certificate-authority-data instead")
    for settings, keys in ((cluster, ("proxy-url",)), (user, ("as", "as-groups", "as-uid", "as-user-extra"))):
        if found := next((key for key in keys if settings.get(key)), None):
            raise KubeError(f"kubeconfig: {found} is not supported, and what it asks for must not be passed over")
    credentials = Credentials(user, cluster)
    name = tls_server_name or cluster.get("tls-server-name")
    pool = Pool(url.hostname, url.port or 443, lambda: credentials.tls, name, CONNECTIONS)
    # The CA tells clusters apart even behind tunnels, whose ports are used again for another cluster.
    identity = hashlib.sha256(
        (cluster.get("server", "") + "\n" + (credentials.authority or b"").decode()).encode()
    ).hexdigest()
    return Client(
        pool,
        credentials=credentials,
        tls_server_name=name,
        address=address,
        # What stands in front of several clusters (Rancher, for one) tells them apart by the path.
        prefix=url.path.rstrip("/"),
        patience=patience,
        discovery=_discoveries.setdefault(identity, Discovery()),
    )


def _selected(kubeconfig: Mapping[str, Any], context: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the cluster and user entries of the wanted context."""

    def entry(group: str, item: str, name: str | None) -> dict[str, Any]:
        for candidate in kubeconfig.get(group) or ():
            if candidate.get("name") == name:
                return candidate.get(item) or {}
        raise KubeError(f"kubeconfig: there is no {item} named {name!r}")

    chosen = entry("contexts", "context", context or kubeconfig.get("current-context"))
    return entry("clusters", "cluster", chosen.get("cluster")), entry("users", "user", chosen.get("user"))


def _encoded(body: Any) -> bytes:
    """Return data as JSON that a reader of YAML understands the same way."""
    # Emoji must travel as themselves: the API server refuses JSON's surrogate escapes.
    text = json.dumps(body, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _refusal(status: int, data: bytes) -> ApiError:
    """Read the Status object of a refused request; a proxy in between may have sent plain text instead."""
    try:
        answer = json.loads(data)
        # A webhook may refuse without giving a reason.
        reason, message, details = answer.get("reason", ""), answer["message"], answer.get("details")
        resume = (answer.get("metadata") or {}).get("continue", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        reason, message, details = "", data.decode(errors="replace").strip()[:500] or "no explanation", None
        resume = ""
    if status == 401:
        message = "the cluster does not accept the kubeconfig's credentials"
    return ApiError(status, reason, message, details=details, resume=resume)


def _transient(refusal: ApiError) -> bool:
    """Whether the same request may succeed in a moment; an HTTP 500 for an unknown field never does."""
    # 502 comes from a load balancer whose API server went away.
    if refusal.status in (429, 502, 503):
        return True
    return refusal.status in (500, 504) and _BUSY.search(refusal.message) is not None


def _plain(error: BaseException) -> str:
    """Say what went wrong without a library's decoration."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or str(error)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r"\s*\(_ssl\.c:\d+\)", "", text) or type(error).__name__


def _certificate_trouble(error: BaseException) -> bool:
    """Whether TLS failed over certificates; a tunnel whose far end is down only cuts the handshake short."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
