"""What can go wrong between us and a cluster, in words that name the object and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# How the kinds' validations say it; there is no reason of its own for it.
_IMMUTABLE = re.compile(
    r"immutable|updates to \w+ spec for fields other than|updates to \w+ are forbidden|may not change once set"
    r"|may not be changed in an update|pod updates may not change fields|cannot change roleRef"
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


class KubeError(Exception):
    """Anything this package raises on purpose; its text is fit for a person and holds no secret."""


class ApiUnreachable(KubeError):
    """The API server could not be reached, or stopped answering, for as long as the client was patient."""


class ApiUntrusted(KubeError):
    """The server's certificate is not what the kubeconfig says, or ours was refused during the handshake."""


class UnsupportedVersion(KubeError):
    """The cluster is older than server-side apply (Kubernetes 1.22)."""


class UnknownKind(KubeError):
    """The cluster serves no such kind in this apiVersion (a missing CustomResourceDefinition, mostly)."""


@dataclass(frozen=True)
class Cause:
    """One cause in a refusal of the API server: a field and what is wrong with it."""

    reason: str
    message: str
    field: str


class ApiError(KubeError):
    """The API server refused a request; `status`, `reason`, `message` and `causes` are its own words.

    `resume` is where to go on in a list that the server forgot.
    """

    def __init__(
        self, status: int, reason: str, message: str, *, details: dict[str, Any] | None = None, resume: str = ""
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.resume = resume
        self.causes = tuple(
            Cause(cause.get("reason", ""), cause.get("message", ""), cause.get("field", ""))
            for cause in self.details.get("causes") or ()
        )
        super().__init__(f"{message} (HTTP {status}{' ' if reason else ''}{reason})")

    @property
    def namespace_missing(self) -> bool:
        """Whether the refusal means that the object's namespace is not there."""
        return self.status == 404 and self.details.get("kind") == "namespaces"

    @property
    def immutable(self) -> bool:
        """Whether the refusal means that fields cannot be changed on the standing object, and nothing else.

        A new object in its place would be refused for whatever else is wrong, and the standing one be lost. Values,
        which are quoted, may hold any word.
        """
        said = [_QUOTED.sub("", cause.message) for cause in self.causes]
        return self.status == 422 and bool(said) and all(_IMMUTABLE.search(words) for words in said)

    @property
    def unauthorized(self) -> bool:
        """Whether the refusal is of who asks, and not of what is in the request."""
        return self.status == 401 or (
            self.status == 403 and re.search(r"\bcannot \w+ resource\b", self.message) is not None
        )

    @property
    def conflict(self) -> bool:
        """Whether another field manager holds a field that was applied without force."""
        return self.status == 409 and any(cause.reason == "FieldManagerConflict" for cause in self.causes)
