"""Manifests from YAML or JSON, read as kubectl reads them, with every mistake named by file, document and line."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from meshstrap.kube.documents import Problem, documents, value_of
from meshstrap.kube.errors import KubeError

# etcd takes no request over 1.5 MiB; ConfigMaps and Secrets may hold 1 MiB of data.
OBJECT_BYTES = 1_572_864
DATA_BYTES = 1_048_576

_API_VERSION = re.compile(r"(?:[a-z0-9.-]+/)?[a-z0-9]+", re.IGNORECASE)

# Names are parts of a URL's path. Source: k8s.io/apimachinery pkg/api/validation/path (v0.34), IsValidPathSegmentName.
_NO_NAME = re.compile(r"\.|\.\.|.*[/%].*", re.DOTALL)

# What a plan looks into before the API server has seen it; "[]" stands for each item of a list.
_WEBHOOKS = ("webhooks[]", "webhooks[].clientConfig")
_MAPPINGS = {
    "CustomResourceDefinition": ("spec", "spec.names", "spec.versions[]"),
    "MutatingWebhookConfiguration": _WEBHOOKS,
    "Secret": ("data", "stringData"),
    "ValidatingWebhookConfiguration": _WEBHOOKS,
}

# Where plain text goes that is no base64.
_PLAIN = {"Secret": "stringData", "ConfigMap": "data"}


class ManifestError(KubeError):
    """A manifest that cannot be used: `file`, `document` (from 1) and `line` (from 1) say where, `what` says why."""

    def __init__(self, what: str, *, file: str, document: int, line: int) -> None:
        self.what = what
        self.file = file
        self.document = document
        self.line = line
        # What did not come from YAML has no lines, only a place in a list.
        place = f"document {document}, line {line}" if line else f"document {document}" if document else ""
        super().__init__(f"{file}, {place}: {what}" if place else f"{file}: {what}")


@dataclass(frozen=True)
class Placed:
    """An object and where it stands: the file's name and the document in it, from 1."""

    item: dict[str, Any]
    file: str
    document: int
    _node: Node = field(repr=False)

    def line(self, path: Sequence[str | int] = ()) -> int:
        """Find the line, from 1, on which a field of the object stands.

        Args:
            path: keys and indices that lead to the field.

        Returns:
            Its line; the line of what holds it where the field itself stands nowhere, as with one merged in by `<<`.
        """
        node, line = self._node, self._node.start_mark.line
        for step in path:
            found = _step(node, step)
            if found is None:
                break
            node, line = found
        return line + 1


def load(source: Path | str) -> list[dict[str, Any]]:
    """Read manifests: the objects of all documents, in order, Lists taken apart, empty documents left out.

    Args:
        source: a Path of a file, or of a directory whose *.yaml, *.yml and *.json files are read in order of
            their names; or the YAML text itself.

    Raises ManifestError for whatever kubectl or the API server would refuse or silently misread: malformed YAML,
    duplicate keys, no apiVersion, kind or name, an object declared twice, one that is too large to be stored.
    """
    objects: list[dict[str, Any]] = []
    seen: dict[tuple[str, str, str, str], str] = {}
    for placed in read(source):
        file, document, line = placed.file, placed.document, placed.line()
        try:
            _check_double(placed.item, line, seen, f"{file}, document {document}, line {line}")
        except Problem as problem:
            raise ManifestError(problem.what, file=file, document=document, line=line) from None
        objects.append(placed.item)
    return objects


def read(source: Path | str) -> Iterator[Placed]:
    """Read manifests as `load` does, each object with its place; one that is declared twice is given twice.

    Raises:
        ManifestError: as `load`, when what is wrong is come to; the objects before it have been given.
    """
    for file, text in _texts(source):
        document = 0
        try:
            for document, root in documents(text):
                for item, node in _items(root):
                    _check(item, node.start_mark.line + 1)
                    yield Placed(item, file, document, node)
        except Problem as problem:
            number = problem.document or document
            raise ManifestError(problem.what, file=file, document=number, line=problem.line) from None


def files(source: Path) -> list[Path]:
    """List the files of a manifest's path: a file itself, or a directory's *.yaml, *.yml and *.json by their names.

    Raises:
        ManifestError: the directory holds none, or cannot be looked into.
    """
    if not source.is_dir():
        return [source]
    try:
        found = sorted(path for path in source.iterdir() if path.suffix in (".yaml", ".yml", ".json"))
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}", file=str(source), document=0, line=0) from None
    if not found:
        raise ManifestError("no *.yaml, *.yml or *.json file here", file=str(source), document=0, line=0)
    return found


def hollow(source: Path) -> list[Path]:
    """List those files of a manifest's path that declare nothing: empty, or nothing but comments.

    Raises:
        ManifestError: as `read`.
    """
    return [path for path in files(source) if not any(True for _ in read(path))]


def checked(objects: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Return objects that did not come from YAML, held to the same rules.

    Raises ManifestError that names an object by its place in the list.
    """
    found: list[Mapping[str, Any]] = []
    seen: dict[tuple[str, str, str, str], str] = {}
    for number, item in enumerate(objects, 1):
        try:
            _check(item, 0)
            _check_double(item, 0, seen, f"object {number}")
        except Problem as problem:
            raise ManifestError(problem.what, file=f"object {number}", document=0, line=0) from None
        except (TypeError, ValueError) as error:
            what = f"{item['kind']} {item['metadata']['name']} is not what JSON can hold: {error}"
            raise ManifestError(what, file=f"object {number}", document=0, line=0) from None
        found.append(item)
    return found


def _texts(source: Path | str) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of what is to be read."""
    if isinstance(source, str):
        yield "<text>", source.removeprefix("\ufeff")
        return
    for path in files(source):
        try:
            yield str(path), path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ManifestError("not UTF-8 text", file=str(path), document=1, line=line) from None
        except OSError as error:
            raise ManifestError(f"cannot be read: {error.strerror}", file=str(path), document=0, line=0) from None


def _items(root: Node) -> Iterator[tuple[Any, Node]]:
    """Yield (object, node) of a document; a List gives each of its items.

    Those of a typed List (ConfigMapList) may leave out what they are. Source: k8s.io/apimachinery
    pkg/apis/meta/v1/unstructured/helpers.go (v0.34), decodeToList.
    """
    value = value_of(root)
    is_list = (
        isinstance(value, dict) and str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list)
    )
    if not is_list:
        yield value, root
        return
    # Items that were merged in by `<<` have no place of their own here.
    nodes = next((node.value for key, node in root.value if key.value == "items"), [root] * len(value["items"]))
    named = {"apiVersion": value.get("apiVersion"), "kind": value["kind"].removesuffix("List")}
    for item, node in zip(value["items"], nodes, strict=True):
        unnamed = isinstance(item, dict) and not item.get("apiVersion") and not item.get("kind")
        yield ({**item, **named} if unnamed and named["kind"] else item), node


def _step(node: Node, step: str | int) -> tuple[Node, int] | None:
    """Go from a node to a key's value or an item, with the line (from 0) where the key or item stands."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == step:
                return value, key.start_mark.line
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step].start_mark.line
    return None


def _check(item: Any, line: int) -> None:
    """Refuse what is no Kubernetes object; the server would say so less clearly, and only after others were sent."""
    if not isinstance(item, dict):
        raise Problem(f"a Kubernetes object is a mapping, this is {_noun(item)}", line)
    for key in ("apiVersion", "kind"):
        if not isinstance(item.get(key), str) or not item[key]:
            raise Problem(f"{key} is missing" if item.get(key) is None else f"{key} must be a string", line)
    if not _API_VERSION.fullmatch(item["apiVersion"]):
        raise Problem(f"apiVersion must be a version, or group/version, not {item['apiVersion']!r}", line)
    metadata = item.get("metadata")
    if not isinstance(metadata, dict):
        raise Problem(f"{item['kind']}: metadata is missing or no mapping", line)
    name = metadata.get("name")
    if name is None and metadata.get("generateName"):
        raise Problem(f"{item['kind']}: generateName cannot be applied, every run would make another", line)
    for key, value in (("name", name), ("namespace", metadata.get("namespace", "-"))):
        if value is None or value == "":
            raise Problem(f"{item['kind']}: metadata.{key} is missing", line)
        if not isinstance(value, str):
            raise Problem(f"{item['kind']}: metadata.{key} must be a string, quote {value!r}", line)
        if _NO_NAME.fullmatch(value):
            raise Problem(f"{item['kind']}: metadata.{key} cannot be {value!r}: a name holds no / or %", line)
    for key in ("labels", "annotations"):
        if not isinstance(metadata.get(key) or {}, dict):
            raise Problem(f"{item['kind']} {name}: metadata.{key} must be a mapping", line)
        for label, value in (metadata.get(key) or {}).items():
            if value is not None and not isinstance(value, str):
                raise Problem(
                    f"{item['kind']} {name}: metadata.{key}.{label} must be a string, quote {json.dumps(value)}", line
                )
    for path in _MAPPINGS.get(item["kind"], ()):
        _check_mapping(item, path.split("."), f"{item['kind']} {name}: {path.replace('[]', '')}", line)
    if wrong := undecodable(item):
        raise Problem(f"{item['kind']} {name}: {'; '.join(wrong)}", line)
    _check_size(item, line)


def undecodable(item: Mapping[str, Any]) -> list[str]:
    """Say which keys of a Secret or a ConfigMap hold what the API server cannot read; the values are not in it.

    The server names the bytes that it stumbles over, and no key.
    """
    wrong = []
    for key in {"Secret": ("data",), "ConfigMap": ("binaryData",)}.get(item["kind"], ()):
        for name, value in _mapping(item, key).items():
            if value is not None and not (isinstance(value, str) and _is_base64(value)):
                wrong.append(f"{key}[{json.dumps(name)}] is no base64 (write plain text to {_PLAIN[item['kind']]})")
    for name, value in _mapping(item, "stringData").items():
        if item["kind"] == "Secret" and value is not None and not isinstance(value, str):
            wrong.append(f"stringData[{json.dumps(name)}] must be a string: quote it")
    return wrong


def _mapping(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = item.get(key)
    return value if isinstance(value, dict) else {}


def _is_base64(text: str) -> bool:
    """Whether Go decodes a text: it passes over line breaks, and nothing else."""
    try:
        base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        return False
    return True


def _check_mapping(value: Any, steps: list[str], what: str, line: int) -> None:
    """Refuse data in which what stands at a path is no mapping, or no list of mappings; null is as good as nothing."""
    if not isinstance(value, dict):
        raise Problem(f"{what} holds what is no mapping", line)
    if not steps:
        return
    inner = value.get(steps[0].removesuffix("[]"))
    if inner is None:
        return
    if not steps[0].endswith("[]"):
        _check_mapping(inner, steps[1:], what, line)
        return
    if not isinstance(inner, list):
        raise Problem(f"{what} must be a list", line)
    for item in inner:
        _check_mapping(item, steps[1:], what, line)


def _check_double(item: Mapping[str, Any], line: int, seen: dict[tuple[str, str, str, str], str], place: str) -> None:
    """Refuse an object that was declared before, and remember where this one was."""
    metadata = item["metadata"]
    group = item["apiVersion"].rpartition("/")[0]
    key = (group, item["kind"], metadata.get("namespace") or "", metadata["name"])
    if key in seen:
        raise Problem(f"{item['kind']} {metadata['name']} is declared twice, first in {seen[key]}", line)
    seen[key] = place


def _check_size(item: dict[str, Any], line: int) -> None:
    where = f"{item['kind']} {item['metadata']['name']}"
    size = len(json.dumps(item, ensure_ascii=False).encode())
    if item["kind"] in ("ConfigMap", "Secret"):
        data = sum(
            len(value.encode())
            for key in ("data", "binaryData", "stringData")
            if isinstance(item.get(key), dict)
            for value in item[key].values()
            if isinstance(value, str)
        )
        # Base64 is a third longer than what counts.
        if data > DATA_BYTES * (4 / 3 if item["kind"] == "Secret" or item.get("binaryData") else 1):
            raise Problem(f"{where} holds {data:,} bytes of data; Kubernetes takes {DATA_BYTES:,}", line)
    if size > OBJECT_BYTES:
        raise Problem(f"{where} is {size:,} bytes; etcd takes {OBJECT_BYTES:,}", line)


def _noun(value: Any) -> str:
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}.get(type(value), "a number")
