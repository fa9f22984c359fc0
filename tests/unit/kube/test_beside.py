"""What an apply makes of a live object once fields of others are ours: held against rules that hold for any object."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshstrap.kube.beside import Holders, applied, beside, fields_of, items_by_hand, spelt
from meshstrap.kube.compare import FieldSet

names = st.sampled_from(["a", "b", "c", "d"])
values = st.integers(0, 3)


def _items(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    item = st.fixed_dictionaries({"name": names}, optional={"value": inner, "other": inner})
    return st.lists(item, max_size=4, unique_by=lambda found: found["name"])


specs = st.fixed_dictionaries(
    {}, optional={"one": values, "two": st.dictionaries(names, values), "items": _items(values)}
)


def _fields(value: Any) -> FieldSet:
    """Return the field set of a value, as the server would record it for who wrote all of it."""
    if isinstance(value, dict):
        return {f"f:{key}": _fields(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return {f'k:{{"name":"{item["name"]}"}}': {".": {}, **_fields(item)} for item in value}
    return {}


def _object(spec: dict[str, Any], **holders: dict[str, Any]) -> dict[str, Any]:
    entries = [
        {
            "manager": manager.replace("_", "-"),
            "operation": "Apply" if manager == "meshstrap" else "Update",
            "fieldsV1": {"f:spec": _fields(held)},
        }
        for manager, held in holders.items()
    ]
    return {"metadata": {"name": "x", "managedFields": entries}, "spec": spec}


def _apply(live: dict[str, Any], spec: dict[str, Any], paths: list[tuple[str, ...]]) -> Any:
    holders = Holders.of(live, "meshstrap", [])
    return applied(live, {"spec": spec}, holders.known, holders, fields_of(paths))["spec"]


def _without_empty(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if inner not in ({}, [])}


@given(specs)
def test_what_stands_is_left_as_it_is(spec: dict[str, Any]) -> None:
    live = _object(spec, meshstrap=spec)
    assert beside(live, {"spec": spec}, Holders.of(live, "meshstrap", [])) == []
    assert _without_empty(_apply(live, spec, [])) == _without_empty(spec)


@given(specs, specs)
def test_what_was_ours_alone_gives_way_to_what_we_declare(before: dict[str, Any], after: dict[str, Any]) -> None:
    live = _object(before, meshstrap=before)
    assert _without_empty(_apply(live, after, [])) == _without_empty(after)


@given(specs, specs)
def test_with_all_taken_out_only_the_declaration_is_left(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    live = _object(theirs, kubectl_edit=theirs)
    paths = [path for path, _ in beside(live, {"spec": ours}, Holders.of(live, "meshstrap", []))]
    assert _without_empty(_apply(live, ours, paths)) == _without_empty(ours)


@given(specs, specs)
def test_what_programs_hold_stays(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    live = _object(theirs, operator=theirs)
    assert items_by_hand(live, {"spec": ours}, Holders.of(live, "meshstrap", [])) == []
    result = _apply(live, ours, [])
    for key in theirs:
        assert key in result
    for name in theirs.get("two", {}):
        assert name in result["two"]
    standing = {item["name"] for item in result.get("items", [])}
    assert {item["name"] for key in (theirs, ours) for item in key.get("items", [])} == standing


def test_who_holds_what_stands_beside() -> None:
    app, web, sidecar = {"name": "app"}, {"name": "web", "value": 1}, {"name": "sidecar", "value": 1}
    live = _object(
        {"items": [web, sidecar], "one": 1, "two": {"a": 1}},
        kubectl_edit={"items": [web], "two": {"a": 1}},
        injector={"items": [sidecar]},
    )
    body = {"spec": {"items": [app], "two": {}}}
    holders = Holders.of(live, "meshstrap", [])
    found = {spelt(path): holder for path, holder in beside(live, body, holders)}
    assert found == {
        ".spec.items[name=web]": "hand",
        ".spec.items[name=sidecar]": "program",
        ".spec.one": "nobody",
        ".spec.two.a": "hand",
    }
    assert [spelt(path) for path in items_by_hand(live, body, holders)] == [".spec.items[name=web]"]
