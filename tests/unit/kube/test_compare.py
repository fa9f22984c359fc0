"""Comparing along managedFields, without a cluster."""

from __future__ import annotations

from typing import Any

from meshstrap.kube.compare import (
    ABSENT,
    Field,
    applied_fields,
    declares,
    difference,
    differences,
    leaves,
    masked,
    union,
    without,
)

OURS: dict[str, Any] = {
    "f:spec": {
        "f:replicas": {},
        "f:http": {},
        "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:name": {}}},
        "f:labels": {"f:a": {}},
        "f:set": {'v:"x"': {}},
    }
}


def _item(managed: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    entry = {"manager": "us", "operation": "Apply", "fieldsV1": OURS if managed is None else managed}
    return {"metadata": {"managedFields": [entry]}, "spec": spec}


def _texts(live: dict[str, Any], planned: dict[str, Any]) -> list[str]:
    return [str(field) for field in differences(live, planned, "us")]


def test_what_is_not_ours_never_counts() -> None:
    assert _texts(_item(replicas=1, others=1, labels={"b": 1}), _item(replicas=1, others=2, labels={"b": 2})) == []


def test_what_is_ours_counts() -> None:
    assert _texts(_item(replicas=1), _item(replicas=2)) == [".spec.replicas: 1 -> 2"]
    assert _texts(_item(), _item(replicas=2)) == [".spec.replicas: absent -> 2"]
    assert _texts(_item(labels={"a": "1", "b": "2"}), _item(labels={"b": "2"})) == ['.spec.labels.a: "1" -> absent']


def test_a_dropped_field_counts_by_the_live_ownership() -> None:
    live, planned = _item(replicas=3), _item({"f:spec": {"f:labels": {"f:a": {}}}})
    assert _texts(live, planned) == [".spec.replicas: 3 -> absent"]


def test_another_managers_entry_is_not_ours() -> None:
    live, planned = _item(replicas=1), _item(replicas=2)
    assert differences(live, planned, "them") == []


def test_keyed_items_are_found_wherever_they_stand() -> None:
    live = _item(ports=[{"port": 443, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "name": "a", "nodePort": 1}])
    planned = _item(ports=[{"port": 80, "name": "b", "nodePort": 2}, {"port": 443, "protocol": "TCP"}])
    assert _texts(live, planned) == ['.spec.ports[port=80,protocol=TCP].name: "a" -> "b"']


def test_sets() -> None:
    assert _texts(_item(set=["y", "x"]), _item(set=["x"])) == []
    assert _texts(_item(set=["y"]), _item(set=["y", "x"])) == ['.spec.set[x]: absent -> "x"']


def test_a_whole_that_is_ours_is_reported_close_to_the_cause() -> None:
    live = _item(http=[{"route": [{"weight": 90}, {"weight": 10}]}])
    planned = _item(http=[{"route": [{"weight": 80}, {"weight": 20}]}, {"name": "new"}])
    assert _texts(live, planned) == [
        ".spec.http[0].route[0].weight: 90 -> 80",
        ".spec.http[0].route[1].weight: 10 -> 20",
        '.spec.http[1]: absent -> {"name": "new"}',
    ]


def test_numbers_and_booleans_differ() -> None:
    assert _texts(_item(http=[1]), _item(http=[True])) == [".spec.http[0]: 1 -> true"]


def test_field_sets() -> None:
    one: dict[str, Any] = {"f:a": {"f:b": {}}, "f:c": {}}
    two: dict[str, Any] = {"f:a": {"f:d": {}}}
    assert union([one, two]) == {"f:a": {"f:b": {}, "f:d": {}}, "f:c": {}}
    assert difference(one, two) == {"f:a": {"f:b": {}}, "f:c": {}}
    assert difference(one, one) == {}
    # Nothing that was put in is altered.
    assert one == {"f:a": {"f:b": {}}, "f:c": {}} and two == {"f:a": {"f:d": {}}}


def test_what_others_keep_when_ours_become_ours() -> None:
    theirs: dict[str, Any] = {
        "f:spec": {
            "f:replicas": {},
            "f:other": {},
            "f:http": {"f:deep": {}},
            "f:ports": {
                'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:nodePort": {}},
                'k:{"port":81,"protocol":"TCP"}': {".": {}, "f:port": {}},
            },
        },
        "f:status": {},
    }
    assert without(theirs, OURS) == {
        "f:spec": {"f:other": {}, "f:ports": {'k:{"port":81,"protocol":"TCP"}': {".": {}, "f:port": {}}}},
        "f:status": {},
    }


def test_what_a_declaration_spells_out() -> None:
    spelt = {"spec": {"ports": [{"port": 80}]}}
    assert declares(spelt, OURS) == {"f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}}}}


def test_what_would_go() -> None:
    item = {"spec": {"replicas": 2, "ports": [{"port": 80, "name": "x"}], "labels": {"b": 1}}}
    assert leaves(item, OURS) == [
        Field(".spec.replicas", 2, ABSENT),
        Field(".spec.ports[port=80,protocol=TCP]", {"port": 80, "name": "x"}, ABSENT),
    ]


def test_applied_fields_are_those_of_apply() -> None:
    entries = [
        {"manager": "us", "operation": "Update", "fieldsV1": {"f:x": {}}},
        {"manager": "us", "operation": "Apply", "fieldsV1": {"f:y": {}}},
    ]
    assert applied_fields({"metadata": {"managedFields": entries}}, "us") == {"f:y": {}}
    assert applied_fields({"metadata": {}}, "us") == {}


def test_masking() -> None:
    assert str(masked(Field(".data.a", "x", "y"))) == '.data.a: "***" -> "***"'
    assert str(masked(Field(".data.a", ABSENT, "y"))) == '.data.a: absent -> "***"'
    assert str(masked(Field(".type", "x", "y"))) == '.type: "x" -> "y"'


def test_long_values_are_cut_and_odd_keys_quoted() -> None:
    text = str(Field('.metadata.labels["a/b"]', "x" * 1000, 1))
    assert len(text) < 200 and text.endswith("... -> 1")
