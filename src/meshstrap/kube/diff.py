"""A change as a person reads it: one line, and a unified diff of the declared fields as YAML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml
from typing_extensions import override

from meshstrap.kube.compare import without_secrets
from meshstrap.kube.plan import Change

_RED, _GREEN, _CYAN, _RESET = "\033[31m", "\033[32m", "\033[36m", "\033[0m"


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: text of several lines as a block, lists set in."""

    @override
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
# The same value twice is written twice: anchors would hide what changed.
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def unified(change: Change, *, color: bool = False) -> str:
    """Return a change's declared fields before and after, as a unified diff of YAML; empty where nothing differs.

    Args:
        change: from a plan; a created object is shown whole, a deleted one only named.
        color: whether to colour lines for a terminal.
    """
    before, after = change.before, change.after
    if change.outcome == "created" and change.body is not None:
        before, after = None, change.body
        if change.ref.kind == "Secret":
            after = without_secrets({}, change.body)[1]
    lines = difflib.unified_diff(
        _yaml(before), _yaml(after), f"{change.ref} (cluster)", f"{change.ref} (declared)", lineterm="", n=3
    )
    return "\n".join(_colored(line) if color else line for line in lines)


def _yaml(item: Mapping[str, Any] | None) -> list[str]:
    if item is None:
        return []
    return yaml.dump(dict(item), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000).splitlines()


def _colored(line: str) -> str:
    for mark, code in (("+++", ""), ("---", ""), ("@@", _CYAN), ("+", _GREEN), ("-", _RED)):
        if line.startswith(mark):
            return f"{code}{line}{_RESET}" if code else line
    return line
