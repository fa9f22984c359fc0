"""Manifests: read as kubectl reads them, refused with file, document and line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.kube.manifests import ManifestError, checked, load

MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"


def _data(text: str) -> dict[str, Any]:
    [item] = load(f"{MAP}data: {{{text}}}")
    data: dict[str, Any] = item["data"]
    return data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # As sigs.k8s.io/yaml (go-yaml v2) resolves plain scalars; PyYAML differs in every second one.
        ("y", True),
        ("N", False),
        ("on", True),
        ("off", False),
        ("yes", True),
        ("True", True),
        ("yEs", "yEs"),
        ('"y"', "y"),
        ("'no'", "no"),
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z"),
        ("22:22", "22:22"),
        ("1:30:00", "1:30:00"),
        ("0644", 420),
        ("0o644", 420),
        ("0x1F", 31),
        ("0b101", 5),
        ("1_000", 1000),
        ("-7", -7),
        ("+7", 7),
        ("1e3", 1000),
        ("1.50", 1.5),
        ("2.0", 2),
        ("1.2.3", "1.2.3"),
        (".5", 0.5),
        ("~", None),
        ("null", None),
        ("Null", None),
        ('""', ""),
        ("=", "="),
        ("<<x", "<<x"),
        ("!!str 12", "12"),
        ("grüße 🚀", "grüße 🚀"),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    found = _data(f"a: {text}")["a"]
    assert found == value and type(found) is type(value)


def test_keys_become_strings() -> None:
    assert _data("1: a, on: b, 1.5: c") == {"1": "a", "true": "b", "1.5": "c"}


def test_anchors_and_merges() -> None:
    items = load(
        f"""{MAP}x:
  base: &base {{a: 1, b: 2}}
  more: {{<<: *base, b: 3}}
  list: {{<<: [{{a: 9}}, *base], c: *base}}
"""
    )
    assert items[0]["x"]["more"] == {"a": 1, "b": 3}
    assert items[0]["x"]["list"] == {"a": 9, "b": 2, "c": {"a": 1, "b": 2}}


def test_crlf_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + f"{MAP}data:\n  a: |\n    x\n    y\n".replace("\n", "\r\n").encode())
    assert load(path)[0]["data"] == {"a": "x\ny\n"}


def test_empty_documents_are_skipped() -> None:
    text = f"---\n# nothing\n---\n{MAP}---\n---\n{MAP.replace('one', 'two')}...\n"
    assert [item["metadata"]["name"] for item in load(text)] == ["one", "two"]
    assert load("") == [] and load("---\n") == [] and load("# only a comment\n") == []


def test_lists_are_taken_apart() -> None:
    text = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}
- {apiVersion: v1, kind: Secret, metadata: {name: two}}
"""
    assert [item["kind"] for item in load(text)] == ["ConfigMap", "Secret"]
    assert load("apiVersion: v1\nkind: List\nitems: []\n") == []


def test_json_is_yaml() -> None:
    assert load('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}')[0]["kind"] == "Pod"


@pytest.mark.parametrize("between", ["", "\n", "\n---\n", "\r\n---\r\n"])
def test_json_documents_need_nothing_between_them(between: str) -> None:
    first, second = (json.dumps({**GOOD, "metadata": {"name": name}}, indent=1) for name in ("one", "two"))
    assert [item["metadata"]["name"] for item in load(first + between + second)] == ["one", "two"]
    with pytest.raises(ManifestError) as error:
        load(first + between + second.replace('"apiVersion"', '"version"'))
    line = (first + between).count("\n") + 1
    assert str(error.value) == f"<text>, document 2, line {line}: apiVersion is missing"


def test_yaml_may_come_behind_json_and_may_look_like_it() -> None:
    assert len(load(f"{json.dumps(GOOD)}\n---\n{MAP.replace('one', 'two')}")) == 2
    assert load("{apiVersion: v1, kind: Pod, metadata: {name: p}}")[0]["kind"] == "Pod"
    with pytest.raises(ManifestError, match="key must be a plain value"):
        load(f"{json.dumps(GOOD)}: x\n")


# What JSON spells by two escapes, what only looks like one, and everything else that YAML and JSON escape.
@given(
    st.dictionaries(
        st.text(max_size=20),
        st.text(max_size=40) | st.sampled_from(["🚀", "\\🚀", "\\ud83d\\ude80", '"\\\U0001f680', "\x7f\u2028\ufeff"]),
        max_size=5,
    )
)
def test_whatever_json_dumps_writes_is_read_as_it_was(data: dict[str, str]) -> None:
    item = {**GOOD, "data": data}
    try:
        json.dumps(item, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(ManifestError):
            load(json.dumps(item))
    else:
        assert load(json.dumps(item)) == [item]


def test_typed_lists_need_not_repeat_the_kind() -> None:
    items = "items:\n- {metadata: {name: one}}\n- {apiVersion: v1, kind: Secret, metadata: {name: two}}\n"
    first, second = load(f"apiVersion: v1\nkind: ConfigMapList\n{items}")
    assert (first["apiVersion"], first["kind"], second["kind"]) == ("v1", "ConfigMap", "Secret")
    with pytest.raises(ManifestError, match="line 4: apiVersion is missing"):
        load(f"apiVersion: v1\nkind: List\n{items}")


@pytest.mark.parametrize("between", ["---\n\ufeff", "---\r\n\ufeff", "\ufeff---\n"])
def test_a_byte_order_mark_may_stand_before_any_document(tmp_path: Path, between: str) -> None:
    path = tmp_path / "both.yaml"
    path.write_bytes(f"\ufeff{MAP}{between}{MAP.replace('one', 'two')}".encode())
    assert [item["metadata"]["name"] for item in load(path)] == ["one", "two"]
    # Anywhere else it is a character like any other.
    assert _data('a: "\ufeff---"') == {"a": "\ufeff---"}


def test_a_small_text_with_an_enormous_content_is_refused_at_once() -> None:
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    bomb = f"{MAP}data:\n  a0: &a0 [lol]\n" + "".join(f"  {level}\n" for level in levels)
    merged = [f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 9)}]}}" for level in range(1, 12)]
    merges = f"{MAP}data:\n  m0: &m0 {{a: b}}\n" + "".join(f"  {level}\n" for level in merged)
    began = time.monotonic()
    for text in (bomb, merges):
        with pytest.raises(ManifestError, match=r"document 1, line \d+: its aliases \(\*\) make more than 16,"):
            load(text)
    assert time.monotonic() - began < 5
    # Many objects that share a large piece are meant so.
    shared = "".join(
        f"- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{n}}}, data: *d}}\n" for n in range(1, 9)
    )
    large = f"- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c0}}, data: &d {{a: {'x' * 900_000}}}}}\n"
    assert len(load(f"apiVersion: v1\nkind: List\nitems:\n{large}{shared}")) == 9


def test_what_is_nested_too_deep_is_refused() -> None:
    chain = "".join(f"  a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, 400))
    for text in (f"{MAP}data: {'[' * 500}{']' * 500}\n", f"{MAP}data:\n  a0: &a0 x\n{chain}"):
        with pytest.raises(ManifestError, match=r"document 1, line .*nested more than 150 levels deep"):
            load(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("kind: Secret\ndata: {good: aGk=, bad: hunter2}", 'Secret one: data["bad"] is no base64'),
        ("kind: Secret\ndata: {bad: 4711}", 'Secret one: data["bad"] is no base64'),
        ("kind: Secret\nstringData: {bad: 4711}", 'Secret one: stringData["bad"] must be a string: quote it'),
        ("kind: ConfigMap\nbinaryData: {bad: hunter2}", 'ConfigMap one: binaryData["bad"] is no base64'),
    ],
)
def test_of_data_that_is_no_base64_the_key_is_named_and_never_the_value(text: str, what: str) -> None:
    with pytest.raises(ManifestError) as error:
        load(f"apiVersion: v1\nmetadata: {{name: one}}\n{text}\n")
    assert what in str(error.value)
    assert "hunter2" not in str(error.value) and "4711" not in str(error.value)
    assert load(f'{MAP.replace("ConfigMap", "Secret")}data: {{wrapped: "aGVsbG8g\\nd29ybGQ=", empty: "", none: }}\n')


def test_a_directory_in_order_of_names(tmp_path: Path) -> None:
    for name, item in (("b.yaml", "second"), ("a.yml", "first"), ("c.json", "third"), ("note.txt", "none")):
        (tmp_path / name).write_text(MAP.replace("one", item) if name != "note.txt" else "not: [yaml")
    assert [item["metadata"]["name"] for item in load(tmp_path)] == ["first", "second", "third"]


def test_the_same_name_in_another_namespace_or_kind_is_no_duplicate() -> None:
    text = "---\n".join(
        [MAP, MAP.replace("ConfigMap", "Secret"), MAP.replace("{name: one}", "{name: one, namespace: x}")]
    )
    assert len(load(text)) == 3


@pytest.mark.parametrize(
    ("text", "document", "line", "what"),
    [
        (f"{MAP}data: {{a: [}}\n", 1, 4, "malformed YAML"),
        (f"{MAP}data:\n\ta: b\n", 1, 5, "malformed YAML"),
        (f"{MAP}---\n{MAP.replace('one', 'two')}data: {{a: 1, a: 2}}\n", 2, 8, "key 'a' stands twice"),
        ("metadata: {name: x}\nmetadata: {name: y}\n", 1, 2, "key 'metadata' stands twice"),
        ("apiVersion: v1\nmetadata: {name: x}\n", 1, 1, "kind is missing"),
        (f"{MAP}---\n\nkind: Pod\nmetadata: {{name: x}}\n", 2, 6, "apiVersion is missing"),
        ("apiVersion: v1\nkind: Pod\n", 1, 1, "metadata is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\n", 1, 1, "metadata.name is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: ''}\n", 1, 1, "metadata.name is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 123}\n", 1, 1, "must be a string, quote 123"),
        ("apiVersion: 1\nkind: Pod\nmetadata: {name: x}\n", 1, 1, "apiVersion must be a string"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}\n", 1, 1, "generateName cannot be applied"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: {a: yes}}\n",
            1,
            1,
            "labels.a must be a string, quote true",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: [a]}\n", 1, 1, "annotations must be a mapping"),
        ("- a\n- b\n", 1, 1, "this is a list"),
        ("just text\n", 1, 1, "this is a string"),
        (f"{MAP}---\n{MAP}", 2, 5, "ConfigMap one is declared twice, first in <text>, document 1, line 1"),
        (f"{MAP}data: &a {{b: *a}}\n", 1, 4, "an anchor that contains itself"),
        (f"{MAP}data: {{a: !!binary aGk=}}\n", 1, 4, "tag tag:yaml.org,2002:binary means nothing"),
        (f"{MAP}data: {{a: !Ref x}}\n", 1, 4, "tag !Ref means nothing"),
        (f"{MAP}data: {{a: .inf}}\n", 1, 4, "JSON has no such number"),
        (f"{MAP}data: {{? [a] : b}}\n", 1, 4, "key must be a plain value"),
        (f"{MAP}data: {{a: *none}}\n", 1, 4, "undefined alias"),
        ("apiVersion: v1\nkind: List\nitems:\n- kind: Pod\n", 1, 4, "apiVersion is missing"),
        (f"{MAP}data: {{a: {'x' * 3_000_000}}}\n", 1, 1, "ConfigMap one holds 3,000,000 bytes of data"),
        (f"{MAP.replace('ConfigMap', 'Other')}spec: {{a: {'x' * 3_000_000}}}\n", 1, 1, "etcd takes 1,572,864"),
    ],
)
def test_mistakes_are_located(text: str, document: int, line: int, what: str) -> None:
    with pytest.raises(ManifestError) as error:
        load(text)
    assert what in str(error.value)
    assert (error.value.document, error.value.line) == (document, line)
    assert str(error.value).startswith(f"<text>, document {document}, line {line}: ")


def test_files_are_named(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(MAP)
    two.write_text(f"\n{MAP}")
    with pytest.raises(ManifestError, match=rf"{two}, document 1, line 2: .* first in {one}, document 1, line 1"):
        load(tmp_path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone\.yaml.*No such file"):
        load(tmp_path / "gone.yaml")
    with pytest.raises(ManifestError, match=r"no \*\.yaml"):
        load(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(MAP.encode() + b"data: {a: gr\xfc\xdfe}\n")
    with pytest.raises(ManifestError, match=r"latin\.yaml, document 1, line 4: not UTF-8"):
        load(latin)


CRD = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a.b"}}
HOOKS = {**CRD, "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}


@pytest.mark.parametrize(
    ("item", "what"),
    [
        ({**CRD, "spec": "x"}, "CustomResourceDefinition a.b: spec holds what is no mapping"),
        ({**CRD, "spec": {"names": ["x"]}}, "CustomResourceDefinition a.b: spec.names holds what is no mapping"),
        ({**CRD, "spec": {"versions": 5}}, "CustomResourceDefinition a.b: spec.versions must be a list"),
        ({**CRD, "spec": {"versions": [None]}}, "CustomResourceDefinition a.b: spec.versions holds what is no mapping"),
        ({**HOOKS, "webhooks": {"a": 1}}, "MutatingWebhookConfiguration a.b: webhooks must be a list"),
        ({**HOOKS, "webhooks": ["a"]}, "MutatingWebhookConfiguration a.b: webhooks holds what is no mapping"),
        ({**HOOKS, "webhooks": [{"clientConfig": 1}]}, "webhooks.clientConfig holds what is no mapping"),
        ({**SECRET, "data": "text"}, "Secret a: data holds what is no mapping"),
        ({**SECRET, "data": ["a"], "stringData": {"a": "b"}}, "Secret a: data holds what is no mapping"),
        ({**SECRET, "stringData": ["a"]}, "Secret a: stringData holds what is no mapping"),
        ({**SECRET, "metadata": {"name": "a/b"}}, "Secret: metadata.name cannot be 'a/b'"),
        ({**SECRET, "metadata": {"name": ".."}}, "Secret: metadata.name cannot be '..'"),
        ({**SECRET, "metadata": {"name": "a", "namespace": ".."}}, "Secret: metadata.namespace cannot be '..'"),
        ({**SECRET, "apiVersion": "a/b/c"}, "apiVersion must be a version, or group/version, not 'a/b/c'"),
        ({**SECRET, "apiVersion": "?"}, "apiVersion must be a version, or group/version, not '?'"),
    ],
)
def test_what_the_plan_would_stumble_over_is_refused(item: Any, what: str) -> None:
    with pytest.raises(ManifestError) as error:
        checked([item])
    assert what in str(error.value)


def test_null_is_as_good_as_nothing() -> None:
    items = [{**CRD, "spec": {"names": None, "versions": None}}, {**HOOKS, "webhooks": None}, {**SECRET, "data": None}]
    assert checked(items) == items


GOOD = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (None, "a Kubernetes object is a mapping, this is nothing"),
        ({"kind": "ConfigMap"}, "apiVersion is missing"),
        ({**GOOD, "metadata": {}}, "ConfigMap: metadata.name is missing"),
        (GOOD, "ConfigMap one is declared twice, first in object 1"),
        ({**GOOD, "metadata": {"name": "two"}, "data": {"a": b"bytes"}}, "ConfigMap two is not what JSON can hold"),
    ],
)
def test_objects_from_python_are_held_to_the_same_rules(bad: Any, what: str) -> None:
    assert checked([GOOD]) == [GOOD]
    with pytest.raises(ManifestError) as error:
        checked([GOOD, bad])
    assert str(error.value).startswith(f"object 2: {what}")
