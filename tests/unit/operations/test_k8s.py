"""We test the words in which a difference is told, and that wrong manifests are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshstrap.kube.compare import ABSENT, Field
from meshstrap.kube.manifests import ManifestError
from meshstrap.operations import k8s


def test_a_plain_value_is_told_on_one_line() -> None:
    assert k8s.field_lines(Field(".spec.replicas", 3, 1), 12) == [".spec.replicas: 3 -> 1"]


def test_a_text_of_many_lines_is_told_by_the_lines_that_differ() -> None:
    live = "accessLogFile: /dev/null\nrootNamespace: istio-system\n"
    declared = "accessLogFile: /dev/stdout\nrootNamespace: istio-system\n"
    assert k8s.field_lines(Field(".data.mesh", live, declared), 12) == [
        ".data.mesh: (- live, + declared)",
        "  -accessLogFile: /dev/null",
        "  +accessLogFile: /dev/stdout",
    ]


def test_a_long_difference_is_cut_and_says_so() -> None:
    field = Field(".data.mesh", "\n".join("abcdefgh"), "")
    lines = k8s.field_lines(field, 3)
    assert lines[1:4] == ["  -a", "  -b", "  -c"]
    assert lines[4] == "  ... and 5 more lines (--diff)"
    assert len(k8s.field_lines(field, 8)) == 9


def test_a_text_that_is_new_is_told_as_a_value() -> None:
    assert k8s.field_lines(Field(".data.mesh", ABSENT, "a\nb"), 12) == ['.data.mesh: absent -> "a\\nb"']


def test_a_path_is_read_as_manifests(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n")
    assert [item["metadata"]["name"] for item in k8s.load(str(file))] == ["web"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nothing-here\.yaml"):
        k8s.load(tmp_path / "nothing-here.yaml")
