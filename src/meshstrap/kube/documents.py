"""The documents of a text, YAML or JSON, told apart and read as kubectl does it, with the line of everything in them.

PyYAML's own constructors are not used: they keep the last of duplicate keys in silence, make dates of dates and
sexagesimal numbers of `22:22`, and leave `y` and `n` as strings where kubectl (sigs.k8s.io/yaml) sees booleans.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

# What aliases may make of a document, in characters: as much as ten times its text, and this. Ten of the largest
# objects fit into it; a few more are a mistake, or an attack, that would fill the memory.
_EXPANDED = 16_000_000

# A person's manifest has ten levels or so, a schema in a definition of a kind some sixty.
_DEPTH = 150
_TOO_DEEP = f"nested more than {_DEPTH} levels deep"

# A byte order mark in the middle of a text: files put together by `cat`. go-yaml passes over it at a document's start.
_MARK = re.compile(r"^\ufeff(?=---)|(?<=^---\n)\ufeff|(?<=^---\r\n)\ufeff", re.MULTILINE)

_JSON = json.JSONDecoder()
_BETWEEN = re.compile(r"\s*(?:^---[ \t]*(?:\r?\n|\Z)\s*)?", re.MULTILINE)
# Two escapes that are one character, as JSON (and Python's json.dumps) spells what is beyond 16 bits; YAML has no such
# pairs. The escapes before it are taken along, since an escaped backslash begins none.
_PAIR = re.compile(r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\.")


class Problem(Exception):
    """A mistake at a line of a document (0 where that is not known to the one who raises it)."""

    def __init__(self, what: str, line: int, document: int = 0) -> None:
        self.what = what
        self.line = line
        self.document = document
        super().__init__(what)


class _Composer(CParser):
    """libyaml's parser with the scalar rules of go-yaml v2, which kubectl uses."""

    _RULES = (
        ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$")),
        (
            "tag:yaml.org,2002:bool",
            re.compile(r"^(?:y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$"),
        ),
        (
            "tag:yaml.org,2002:int",
            re.compile(r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
        ),
        (
            "tag:yaml.org,2002:float",
            re.compile(
                r"^(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
                r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
            ),
        ),
        ("tag:yaml.org,2002:merge", re.compile(r"^<<$")),
    )

    def resolve(self, kind: type[Node], value: str, implicit: tuple[bool, bool]) -> str:
        """Name a node's type (libyaml's parser calls this)."""
        if kind is ScalarNode:
            if implicit[0]:
                for tag, rule in self._RULES:
                    if rule.match(value):
                        return tag
            return "tag:yaml.org,2002:str"
        return "tag:yaml.org,2002:seq" if kind is SequenceNode else "tag:yaml.org,2002:map"

    def descend_resolver(self, parent: Node | None, index: Any) -> None:
        """Do nothing: our rules do not depend on the path (libyaml's parser calls this)."""

    def ascend_resolver(self) -> None:
        """Do nothing, as above."""


def documents(text: str) -> Iterator[tuple[int, Node]]:
    """Yield (number, root node) of each document that is not empty.

    JSON documents need nothing between them. Anchors and aliases are one node in several places.

    Raises:
        Problem: the text is malformed, contains itself, or is a small text for an enormous content.
    """
    number = 1
    for part in _parts(_MARK.sub("", text)):
        try:
            composer = _Composer(part)
            while composer.check_node():
                root = composer.get_node()
                if root is not None and not (isinstance(root, ScalarNode) and root.tag == "tag:yaml.org,2002:null"):
                    _check_expanded(root, 10 * len(part) + _EXPANDED)
                    yield number, root
                number += 1
        except Problem as problem:
            raise Problem(problem.what, problem.line, number) from None
        except RecursionError:
            raise Problem(_TOO_DEEP, 1, number) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = " ".join(word for word in (error.context, error.problem) if word)
            raise Problem(f"malformed YAML: {what}", mark.line + 1 if mark else 0, number) from None
        except yaml.YAMLError as error:
            position = getattr(error, "position", None)
            line = part[:position].count("\n") + 1 if isinstance(position, int) else 0
            raise Problem(f"malformed YAML: {getattr(error, 'reason', error)}", line, number) from None


def _parts(text: str) -> Iterator[str]:
    """Yield a text in the parts that are read one by one: JSON documents, while there are any, and the rest.

    Each part has as many line breaks before it as stand before it in the text, so that lines can be counted.
    """
    place = 0
    while True:
        place = found.end() if (found := _BETWEEN.match(text, place)) else place
        if not text.startswith("{", place):
            break
        try:
            _, end = _JSON.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        after = _BETWEEN.match(text, end)
        follows = after.end() if after else end
        # Something else behind it, as a colon, makes it a part of a YAML document.
        if follows < len(text) and text[follows] != "{" and "---" not in text[end:follows]:
            break
        yield "\n" * text.count("\n", 0, place) + _PAIR.sub(_character, text[place:end])
        place = end
    if place == 0 or text[place:].strip():
        yield "\n" * text.count("\n", 0, place) + text[place:]


def _character(found: re.Match[str]) -> str:
    return str(json.loads(f'"{found[1]}"')) if found[1] else found[0]


def _check_expanded(root: Node, limit: int) -> None:
    """Refuse a document that contains itself, or of which its aliases make more than a number of characters.

    Counted before anything is expanded: each node once, however often it stands somewhere.
    """
    known: dict[int, tuple[int, int]] = {}
    open_: set[int] = set()

    def look(node: Node, level: int) -> tuple[int, int]:
        """Return how many characters a node has with all that is in it, and how many levels."""
        key = id(node)
        if key in known:
            return known[key]
        line = node.start_mark.line + 1
        if key in open_:
            raise Problem("an anchor that contains itself", line)
        open_.add(key)
        size, height = 1, 1
        if isinstance(node, ScalarNode):
            size += len(node.value)
        else:
            inner = node.value if isinstance(node, SequenceNode) else [part for pair in node.value for part in pair]
            for part in inner:
                if level >= _DEPTH:
                    raise Problem(_TOO_DEEP, line)
                below, levels = look(part, level + 1)
                size += below
                height = max(height, levels + 1)
        if height > _DEPTH:
            raise Problem(_TOO_DEEP, line)
        if size > limit:
            raise Problem(f"its aliases (*) make more than {limit:,} characters of a small text", line)
        open_.discard(key)
        known[key] = size, height
        return known[key]

    look(root, 0)


def value_of(node: Node) -> Any:
    """Return a node of `documents` as the data that JSON can hold.

    Raises:
        Problem: something in it is no such data.
    """
    line = node.start_mark.line + 1
    if isinstance(node, ScalarNode):
        return _scalar(node, line)
    if isinstance(node, SequenceNode):
        return [value_of(item) for item in node.value]
    if isinstance(node, MappingNode):
        return _mapping(node)
    raise Problem(f"tag {node.tag} means nothing in a manifest", line)


def _mapping(node: MappingNode) -> dict[str, Any]:
    own: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == "tag:yaml.org,2002:merge":
            sources = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            for source in sources:
                content = value_of(source)
                if not isinstance(content, dict):
                    raise Problem("<< takes a mapping or a list of mappings", line)
                for key, value in content.items():
                    merged.setdefault(key, value)
            continue
        key = _key(value_of(key_node), line)
        if key in own:
            raise Problem(f"key {key!r} stands twice in one mapping", line)
        own[key] = value_of(value_node)
    return {**merged, **own} if merged else own


def _key(value: Any, line: int) -> str:
    """Return a mapping's key as the string that sigs.k8s.io/yaml makes of it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise Problem("a mapping's key must be a plain value", line)


def _scalar(node: ScalarNode, line: int) -> Any:
    text, kind = node.value, node.tag.removeprefix("tag:yaml.org,2002:")
    try:
        match kind:
            case "str" | "merge":
                text.encode()
                return text
            case "null":
                return None
            case "bool":
                return text.lower() in ("y", "yes", "true", "on")
            case "int":
                return _integer(text.replace("_", ""))
            case "float":
                if text.lower().endswith((".inf", ".nan")):
                    raise Problem(f"{text}: JSON has no such number", line)
                number = float(text.replace("_", ""))
                if not math.isfinite(number):
                    raise Problem(f"{text}: too large a number", line)
                # As Go writes it into JSON: 1e3 and 2.0 are whole numbers there.
                return int(number) if number.is_integer() and abs(number) < 1e21 else number
    except UnicodeEncodeError:
        raise Problem("half a surrogate pair is no character", line) from None
    except ValueError:
        raise Problem(f"{text!r} is no {kind}", line) from None
    raise Problem(f"tag {node.tag} means nothing in a manifest", line)


def _integer(text: str) -> int:
    """Read an integer as Go does: 0x, 0o, 0b, and a leading 0 means octal."""
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    if re.fullmatch(r"0[0-7]+", digits):
        return sign * int(digits, 8)
    return sign * int(digits, 0)
