"""Reading objects: one, many, all of a kind; and picking from them with jmespath."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import ApiError, KubeError, UnknownKind
from meshstrap.kube.parallel import each
from meshstrap.kube.ref import Ref

# Objects a page; also how many others may sit beside those that a bulk read wants before it reads singly.
PAGE = 500

# From how many objects of one kind and namespace on they are listed rather than read singly.
TOGETHER = 4


def get(client: Client, api_version: str, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
    """Return one object, or None where it, its namespace or its kind is not there."""
    try:
        resource = client.resource(api_version, kind)
    except UnknownKind:
        return None
    return read(client, resource, namespace, name)


def list(
    client: Client,
    api_version: str,
    kind: str,
    namespace: str | None = None,
    *,
    labels: str = "",
    fields: str = "",
) -> builtins.list[dict[str, Any]]:
    """Return all objects of a kind, in a namespace or the whole cluster; none where the kind is not served.

    Args:
        client: the connection.
        api_version: such as "apps/v1".
        kind: such as "Deployment".
        namespace: one namespace, or None for all.
        labels: label selector as kubectl writes it ("app=web,tier!=db").
        fields: field selector ("status.phase=Running").
    """
    try:
        resource = client.resource(api_version, kind)
    except UnknownKind:
        return []
    return builtins.list(pages(client, resource, namespace, labels=labels, fields=fields))


def select(objects: Iterable[Mapping[str, Any]], expression: str) -> Any:
    """Return what a jmespath expression picks from a list of objects.

    Raises KubeError where the expression is malformed, or does not fit these objects.
    """
    # Imported only where somebody selects: most runs do not.
    import jmespath

    check(expression)
    try:
        return jmespath.search(expression, builtins.list(objects))
    except jmespath.exceptions.JMESPathError as error:
        raise _unfit(expression, error) from None


def check(expression: str) -> None:
    """Raise KubeError where a jmespath expression is malformed or calls a function that there is none of."""
    import jmespath
    from jmespath.functions import Functions

    try:
        parsed = jmespath.compile(expression).parsed
    except jmespath.exceptions.JMESPathError as error:
        raise _unfit(expression, error) from None
    # jmespath itself finds out only when an object comes to the function.
    for name in _called(parsed):
        if name not in Functions.FUNCTION_TABLE:
            raise _unfit(expression, f"there is no function {name}()")


def items(answer: Mapping[str, Any], **common: str) -> builtins.list[dict[str, Any]]:
    """Take the objects out of what the API server or kubectl answered: a list, or one object. Pure.

    Args:
        answer: the decoded answer.
        common: fields that the API server gives once for a list and not for each object of it: kind and apiVersion.
    """
    if not isinstance(answer.get("items"), builtins.list):
        return [dict(answer)]
    return [{**common, **item} for item in answer["items"]]


def read(client: Client, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
    """Return one object of a known resource, or None."""
    try:
        item: dict[str, Any] = client.request("GET", resource.path(namespace, name))
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return item


def pages(
    client: Client, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield all objects of a known resource, page by page, each with its kind and apiVersion (a list lacks them)."""
    query = {"limit": str(PAGE)}
    if labels:
        query["labelSelector"] = labels
    if fields:
        query["fieldSelector"] = fields
    while True:
        try:
            answer = client.request("GET", resource.path(namespace), query=query)
        except ApiError as error:
            # 404: the kind went away since it was discovered.
            if error.status == 404:
                return
            # 410: the cluster no longer knows its list as it was when we began (slow reader), and says how to go on
            # with the list as it is.
            if error.status != 410 or not error.resume:
                raise
            query["continue"] = error.resume
            continue
        yield from items(answer, apiVersion=resource.api_version, kind=resource.kind)
        position = answer["metadata"].get("continue")
        if not position:
            return
        query["continue"] = position


def groups(wanted: Iterable[tuple[Ref, Resource]]) -> builtins.list[builtins.list[tuple[Ref, Resource]]]:
    """Return objects' names and resources by kind and namespace."""

    def key(pair: tuple[Ref, Resource]) -> tuple[str, str, str]:
        return pair[0].api_version, pair[0].kind, pair[0].namespace

    return [builtins.list(group) for _, group in groupby(sorted(wanted, key=key), key=key)]


def read_many(client: Client, wanted: Iterable[tuple[Ref, Resource]]) -> dict[Ref, dict[str, Any]]:
    """Return those of many objects that are there, with as few requests as is sensible, concurrently.

    Args:
        client: the connection.
        wanted: the objects' names and their kinds' resources.
    """

    def listed(group: builtins.list[tuple[Ref, Resource]]) -> dict[Ref, dict[str, Any]]:
        first, resource = group[0]
        if len(group) == 1:
            item = read(client, resource, first.namespace, first.name)
            return {} if item is None else {first: item}
        names = {ref.name: ref for ref, _ in group}
        found: dict[Ref, dict[str, Any]] = {}
        limit = max(PAGE, 4 * len(group))
        for seen, item in enumerate(pages(client, resource, first.namespace or None)):
            if (ref := names.get(item["metadata"]["name"])) is not None:
                found[ref] = item
            if seen >= limit or len(found) == len(group):
                break
        else:
            return found
        # Few of ours among very many others: the rest is cheaper to read singly.
        for ref in names.values():
            single = None if ref in found else read(client, resource, ref.namespace, ref.name)
            if single is not None:
                found[ref] = single
        return found

    requests = []
    for group in groups(wanted):
        requests += [group] if len(group) >= TOGETHER else [[pair] for pair in group]
    return {ref: item for found in each(listed, requests) for ref, item in found.items()}


def _called(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the functions that a parsed jmespath expression calls."""
    if node["type"] == "function_expression":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, dict):  # A slice's are numbers.
            yield from _called(child)


def _unfit(expression: str, reason: object) -> KubeError:
    return KubeError(f"jmespath expression {expression!r}: {reason}")
