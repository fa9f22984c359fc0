"""Image references: one full form of each, and the site's own names for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshstrap.bundle.errors import quoted

# The grammar of the distribution project (reference/reference.go), which containerd and Docker share.
_DOMAIN = re.compile(
    r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?"
)
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ReferenceError(ValueError):
    """Not an image reference, or not an entry of the data `images`; the message quotes it."""


@dataclass(frozen=True)
class Reference:
    """The parts of an image reference.

    Args:
        domain: Registry, with its port if it has one.
        path: Repository within it.
        tag: Without the colon; empty where there is only a digest.
        digest: `sha256:<hex>`, or empty.
    """

    domain: str
    path: str
    tag: str
    digest: str = ""

    @property
    def repository(self) -> str:
        """Domain and path: the reference without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def full(self) -> str:
        """The one full form."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def is_digest(value: str) -> bool:
    """Tell whether a text is `sha256:<64 hex digits>`."""
    return bool(_DIGEST.fullmatch(value))


def parse(reference: str) -> Reference:
    """Take a reference apart, filling in what runtimes fill in: docker.io, library/ and :latest.

    Args:
        reference: As written in a manifest, for example `busybox` or `fortio/fortio:1.66.5`.

    Returns:
        Its parts.

    Raises:
        ReferenceError: It is none.
    """
    rest, at, digest = reference.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ReferenceError(f"{quoted(reference)} is not an image reference: {quoted(digest)} is not a sha256 digest")
    first, slash, remainder = rest.partition("/")
    has_domain = bool(slash) and ("." in first or ":" in first or first == "localhost")
    domain, name = (first, remainder) if has_domain else ("docker.io", rest)
    name, colon, tag = name.partition(":")
    if domain == "index.docker.io":
        domain = "docker.io"
    if domain == "docker.io" and "/" not in name:
        name = f"library/{name}"
    if not _DOMAIN.fullmatch(domain):
        raise ReferenceError(f"{quoted(reference)} is not an image reference: {quoted(domain)} is not a registry")
    for part in name.split("/"):
        if not _PART.fullmatch(part):
            raise ReferenceError(
                f"{quoted(reference)} is not an image reference: {quoted(part)} is not a part of a name"
            )
    if colon and not _TAG.fullmatch(tag):
        raise ReferenceError(f"{quoted(reference)} is not an image reference: {quoted(tag)} is not a tag")
    if not colon and not at:
        tag = "latest"
    return Reference(domain, name, tag, digest)


def normalize(reference: str) -> str:
    """Give a reference its one full form, `docker.io/library/busybox:latest` for `busybox`.

    Args:
        reference: Short or full.

    Returns:
        The full form.

    Raises:
        ReferenceError: It is none.
    """
    return parse(reference).full


def override(reference: str, images: Sequence[Mapping[str, Any]]) -> str:
    """Give a reference the name that the site uses for it.

    Args:
        reference: As written in the scenario's manifest.
        images: The data `images` in kustomize's form: `{name, newName, newTag, digest}`. The first entry whose
            name is the reference's repository counts, and only what it gives is replaced.

    Returns:
        The full form of what the site uses; the reference's own full form where no entry names it.

    Raises:
        ReferenceError: The reference or an entry is none.
    """
    parsed = parse(reference)
    if not isinstance(images, list | tuple) or not all(isinstance(entry, Mapping) for entry in images):
        raise ReferenceError(
            f"data images: must be a list of {{'name': ..., 'newName': ..., 'newTag': ...}}, not {images!r}"
        )
    for entry in images:
        unknown = set(entry) - {"name", "newName", "newTag", "digest"}
        if unknown or not isinstance(entry.get("name"), str):
            raise ReferenceError(
                f"data images: {dict(entry)!r}: an entry has a name and any of newName, newTag and digest"
            )
        if parse(entry["name"]).repository != parsed.repository:
            continue
        if "newName" in entry:
            fresh = parse(str(entry["newName"]))
            parsed = replace(parsed, domain=fresh.domain, path=fresh.path)
        if "newTag" in entry:
            parsed = replace(parsed, tag=str(entry["newTag"]), digest="")
        if "digest" in entry:
            parsed = replace(parsed, tag="", digest=str(entry["digest"]))
        return normalize(parsed.full)
    return parsed.full
