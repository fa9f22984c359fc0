"""Refuse, while a deploy is read, declared objects that would not do what they say on the site's Istio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyinfra.api.exceptions import OperationValueError
from pyinfra.context import host

from meshstrap.mesh.lint import NEWEST, lint


def refuse_mistakes(objects: Iterable[Mapping[str, Any]], source: Path) -> None:
    """Refuse objects in which the linter finds something, judged for data `istio_version`.

    Args:
        objects: as they are to be applied.
        source: the file that they come from, for the message.

    Raises:
        OperationValueError: names each object, field, what the mesh really does with it and what to write.
    """
    version = host.data.get("istio_version", NEWEST)
    try:
        findings = lint(objects, version)
    except ValueError as error:
        raise OperationValueError(f"istio_version: {error}") from None
    if findings:
        raise OperationValueError(
            "\n".join(
                f"{each.ref} in {source.name}, {each.field}: {each.what} [{each.rule}]. Instead: {each.instead}"
                for each in findings
            )
        )
