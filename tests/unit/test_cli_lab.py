"""The lab's commands as people type them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from meshstrap import cli
from meshstrap.lab import access


def test_kubectl_gets_every_word_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, ...]] = []

    class Record:
        nodes_file = "nodes.yaml"

    monkeypatch.setattr(cli, "_lab", Record)
    monkeypatch.setattr(cli, "read", lambda _: None)
    monkeypatch.setattr(access, "kubectl", lambda _lab, _record, words, **_: given.append(tuple(words)))
    monkeypatch.setattr(cli, "_become", lambda _: None)
    for words in (["exec", "pod", "--", "ls", "--", "-l"], ["get", "--help"], ["--", "version"], []):
        assert CliRunner().invoke(cli.main, ["lab", "kubectl", *words]).exit_code == 0
        assert list(given.pop()) == words
