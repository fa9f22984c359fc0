"""Asking the API server what it would do, without its doing it: validation, defaulting and admission run as ever."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meshstrap.kube.connect import APPLY_PATCH, Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import ApiError
from meshstrap.kube.ref import Ref

# What a new object under another name is refused for only because the standing one is there: its name is bound to
# what is in it, or it holds a port or an address that there is once.
_TAKEN = re.compile(r"already allocated|metadata\.name|must be spec\.names\.plural")


def dry_run(
    client: Client, resource: Resource, ref: Ref, body: Mapping[str, Any], manager: str, *, force: bool
) -> dict[str, Any]:
    """Return what the server would store if an object were applied; raises ApiError where it refuses."""
    query = {"dryRun": "All", "fieldManager": manager, "force": "true" if force else "false"}
    answer: dict[str, Any] = client.request(
        "PATCH", resource.path(ref.namespace, ref.name), query=query, body=body, content_type=APPLY_PATCH
    )
    return answer


def only_anew(
    client: Client, resource: Resource, ref: Ref, body: Mapping[str, Any], manager: str, refusal: ApiError
) -> bool:
    """Whether what is refused to the standing object would be taken as a new one.

    The words do not decide it: webhooks, policies and CEL rules have their own. The server is asked for an object of
    another name.

    Args:
        client: the connection.
        resource: the object's kind.
        ref: the object.
        body: its declaration.
        manager: our field manager.
        refusal: of an apply to the standing object.
    """
    # Who may not write, or is refused by a webhook that is away, is not asked for what is in the object.
    if refusal.status not in (400, 403, 422) or refusal.unauthorized:
        return False
    name = f"{ref.name[:40].rstrip('-.')}-{hashlib.sha256(ref.name.encode()).hexdigest()[:8]}"
    fresh = {**body, "metadata": {**body["metadata"], "name": name}}
    try:
        dry_run(client, resource, replace(ref, name=name), fresh, manager, force=False)
    except ApiError as error:
        return refusal.immutable and _TAKEN.search(str(error)) is not None
    return True
