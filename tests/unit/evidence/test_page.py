"""The page of a folder of evidence: it holds what proofs wrote down, escaped, and needs nothing beside it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from meshstrap import cli
from meshstrap.evidence import page, plots

TEXT = st.text(max_size=60) | st.sampled_from(["<script>alert(1)</script>", "</pre></details>", '" onload="x', "&amp;"])


ELEMENTS = set(
    re.findall(
        r"\w+",
        "html head meta title style body h1 h2 p section div table tr th td a span ul li dl dt dd details summary pre",
    )
)


class Outline(HTMLParser):
    """The elements of a page, those still open, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        self.text += data


def outline(document: str) -> Outline:
    read = Outline()
    read.feed(document)
    read.close()
    assert read.open == []
    return read


def evidence(**changes: Any) -> dict[str, Any]:
    verdict = {"outcome": "PASS", "summary": "37 of 400", "rule": "the region", "lines": ["the log agrees"]}
    return {"scenario": "canary", "claim": "10 % reach v2", "verdict": verdict, "file": "x.json"} | changes


@given(TEXT, TEXT, st.lists(TEXT, max_size=3), st.dictionaries(TEXT, TEXT, max_size=3))
def test_whatever_was_written_down_stays_text(
    name: str, summary: str, lines: list[str], observed: dict[str, str]
) -> None:
    verdict = {"outcome": name, "summary": summary, "rule": summary, "lines": lines}
    report = evidence(scenario=name, verdict=verdict, observation=observed, objects=[observed], site={"nodes": [name]})
    shown = outline(page.render(page.Folder((report, report), (summary,)), name))
    assert {tag for tag, _ in shown.elements} <= ELEMENTS
    assert not any(key.startswith("on") for _, attributes in shown.elements for key in attributes)
    assert re.sub(r"\s", "", summary) in re.sub(r"\s", "", shown.text)


def test_the_page_refers_to_nothing_outside() -> None:
    drawn = [plots.region("r", count=1, n=4, low=1, high=3), {"kind": "other"}, {"kind": "region", "title": "short"}]
    report = evidence()
    report["verdict"]["plots"] = drawn
    document = page.render(page.Folder((report,), ()), "lab")
    shown = outline(document)
    assert [key for _, attributes in shown.elements for key in attributes if key in ("src", "xlink:href")] == []
    assert [each["href"] for tag, each in shown.elements if tag == "a"] == ["#canary"]
    assert "url(" not in document and "@import" not in document and "<script" not in document
    assert len([tag for tag, _ in shown.elements if tag == "figure"]) == 1


@given(
    st.dictionaries(st.text(max_size=9), st.lists(st.floats(0, 1e6), max_size=4), max_size=3),
    st.floats(0, 1e6),
)
def test_any_durations_can_be_drawn(values: dict[str, list[float]], limit: float) -> None:
    drawn = plots.svg(plots.durations("d", values, limit=limit, unit="ms"))
    assert drawn == "" or ("nan" not in drawn and "inf" not in drawn)
    assert limit == 0 or drawn


def test_the_newest_proof_of_each_is_shown_whole_and_earlier_ones_as_lines() -> None:
    def made(scenario: str, summary: str) -> dict[str, Any]:
        return evidence(scenario=scenario, verdict={"outcome": "FAIL", "summary": summary})

    reports = (made("retry", "new"), made("canary", "second"), made("retry", "old"))
    shown = outline(page.render(page.Folder(reports, ()), "lab")).text
    assert "2 scenarios: 2 FAIL" in shown
    assert shown.index("new") < shown.index("Earlier proofs") < shown.index("old")
    assert shown.count("old") == 1 and shown.count("new") == 2


def test_other_files_are_passed_over_with_a_word(tmp_path: Path) -> None:
    (tmp_path / "2026-01-01T000000.0Z-canary.json").write_text(json.dumps(evidence()))
    (tmp_path / "2026-01-01T000000.0Z-changes.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    folder = page.read(tmp_path)
    assert [report["scenario"] for report in folder.reports] == ["canary"]
    assert sorted(line.partition(":")[0] for line in folder.passed_over) == ["broken.json", "bytes.json", "list.json"]


@pytest.mark.parametrize("files", [0, 1])
def test_the_command_writes_the_page_and_says_how_many_proofs_it_holds(tmp_path: Path, files: int) -> None:
    folder, output = tmp_path / "reports", tmp_path / "report.html"
    folder.mkdir()
    for _ in range(files):
        (folder / "a.json").write_text(json.dumps(evidence()))
    done = CliRunner().invoke(cli.main, ["report", str(folder), "-o", str(output)])
    assert (done.exit_code, done.output) == (0, f"{output}: {files} proofs\n")
    assert ("There is no proof here." in output.read_text()) is (files == 0)
