"""Who we are to the API server, as a kubeconfig says: certificate, token, or what a plugin gives for some time.

A plugin (the kubeconfigs of clouds have one) is asked again before what it gave expires, and when the server does not
accept it any more; a token's file, which others write anew, is read again then.
"""

from __future__ import annotations

import base64
import math
import os
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meshstrap.kube.errors import KubeError

# Seconds before the expiry of what a plugin gave for it to be asked again: a request has to arrive with it.
_EARLY = 10.0


class Credentials:
    """The user of a kubeconfig towards a cluster, and the authority that the cluster is known by; safe to share."""

    def __init__(self, user: Mapping[str, Any], cluster: Mapping[str, Any]) -> None:
        """Read what a kubeconfig says, and ask its plugin.

        Args:
            user: the kubeconfig's entry of the user.
            cluster: its entry of the cluster.

        Raises KubeError where something is missing, does not fit or cannot be run.
        """
        self._user = dict(user)
        self._cluster = dict(cluster)
        self.authority = material(cluster, "certificate-authority")
        self._taking = threading.Lock()
        # How often they were taken: who was refused says with which ones.
        self.number = 0
        self._take()

    def _take(self) -> None:
        given = _with_exec(self._user, self._cluster)
        self.headers = _token_header(given)
        self.tls = _tls(self.authority, given)
        expires = _seconds(given.get("expires"))
        # One that is as good as expired when it is given would be asked for with every request.
        self._expires = expires if expires > time.time() + _EARLY else math.inf
        self.number += 1

    def current(self) -> int:
        """See to it that they do not expire in the next seconds; returns their number.

        Raises KubeError where the plugin fails.
        """
        if time.time() > self._expires - _EARLY:
            self.renew(self.number)
        return self.number

    def renew(self, refused: int) -> bool:
        """Take them anew where the ones of a number were refused; returns whether there are others to be tried.

        Raises KubeError where the plugin fails.
        """
        with self._taking:
            if self.number == refused and (self._user.get("exec") or self._user.get("tokenFile")):
                self._take()
            return self.number != refused


def _seconds(timestamp: object) -> float:
    """Return the seconds since 1970 of a plugin's expirationTimestamp (RFC 3339); infinite where it gives none."""
    try:
        moment = datetime.fromisoformat(str(timestamp).replace("Z", "+00:00"))
    except ValueError:
        return math.inf
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def material(entry: Mapping[str, Any], key: str) -> bytes | None:
    """Return a certificate or key given as base64 data or as the path of a file."""
    if data := entry.get(f"{key}-data"):
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except ValueError:
            raise KubeError(f"kubeconfig: {key}-data is not base64") from None
    if path := entry.get(key):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise KubeError(f"kubeconfig: {key} cannot be read: {error}") from None
    return None


def _with_exec(user: dict[str, Any], cluster: dict[str, Any]) -> dict[str, Any]:
    """Return the user entry with what its exec plugin answers (cloud clusters' kubeconfigs), if it has one."""
    if not user.get("exec"):
        return user
    # A third of a second to import, so only where it is needed.
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.exec_provider import ExecProvider
    from kubernetes.config.kube_config import ConfigNode

    provider: Any = ExecProvider
    node: Any = ConfigNode
    try:
        status = provider(node("exec", user["exec"]), None, node("cluster", cluster)).run() or {}
    except OSError as error:
        hint = user["exec"].get("installHint") or ""
        what = f"kubeconfig: exec plugin {user['exec']['command']} cannot be run: {error.strerror}"
        raise KubeError(f"{what}\n{hint}".strip()) from None
    except ConfigException as error:
        raise KubeError(f"kubeconfig: {error}") from None
    given: dict[str, Any] = {"expires": status.get("expirationTimestamp")}
    if status.get("token"):
        given["token"] = status["token"]
    for ours, theirs in (
        ("client-certificate-data", "clientCertificateData"),
        ("client-key-data", "clientKeyData"),
    ):
        if status.get(theirs):
            given[ours] = base64.b64encode(status[theirs].encode()).decode()
    return {**user, **given}


def _token_header(user: Mapping[str, Any]) -> dict[str, str]:
    token = user.get("token")
    if path := user.get("tokenFile"):
        try:
            token = Path(path).read_text().strip()
        except OSError as error:
            raise KubeError(f"kubeconfig: tokenFile cannot be read: {error}") from None
    if token and not re.fullmatch(r"[!-~]+", token):
        raise KubeError("kubeconfig: the token holds blanks, line breaks or other characters that no token has")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _tls(authority: bytes | None, user: Mapping[str, Any]) -> ssl.SSLContext:
    """Make the TLS settings: the cluster's CA alone is trusted, the client's certificate comes from memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, key = material(user, "client-certificate"), material(user, "client-key")
    if (certificate is None) != (key is None):
        raise KubeError("kubeconfig: client-certificate and client-key must both be given")
    try:
        if authority is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=authority.decode())
        if certificate is not None and key is not None:
            with _in_memory(certificate) as certificate_path, _in_memory(key) as key_path:
                # Without a password OpenSSL would ask for one on the terminal, and wait for ever.
                context.load_cert_chain(certificate_path, key_path, password="")
    except (ssl.SSLError, ValueError):
        what = "a certificate or key in it is damaged or encrypted, or the two do not match"
        raise KubeError(f"kubeconfig: {what}") from None
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give bytes a path that never touches a disk: OpenSSL reads keys from files only."""
    descriptor = os.memfd_create("meshstrap")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
