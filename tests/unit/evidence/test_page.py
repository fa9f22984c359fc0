"""The page of a folder of evidence: it holds what proofs wrote down, escaped, and needs nothing beside it."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

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


def made(folder: page.Folder, name: str = "lab") -> str:
    return page.render(
        folder, name, files="reports", made=datetime(2026, 12, 1, 3, 5, tzinfo=timezone(timedelta(hours=1)))
    )


@given(TEXT, TEXT, st.lists(TEXT, max_size=3), st.dictionaries(TEXT, TEXT, max_size=3))
def test_whatever_was_written_down_stays_text(
    name: str, summary: str, lines: list[str], observed: dict[str, str]
) -> None:
    verdict = {"outcome": name, "summary": summary, "rule": summary, "lines": lines}
    report = evidence(
        scenario=name,
        verdict=verdict,
        observation=observed,
        objects=[observed],
        site={"nodes": [name, {"name": name, "url": summary}], "cluster": name, "istio": summary},
    )
    shown = outline(made(page.Folder((report, report), (summary,)), name))
    assert {tag for tag, _ in shown.elements} <= ELEMENTS
    assert not any(key.startswith("on") for _, attributes in shown.elements for key in attributes)
    assert re.sub(r"\s", "", summary) in re.sub(r"\s", "", shown.text)


def test_the_page_refers_to_nothing_outside() -> None:
    drawn = [plots.region("r", count=1, n=4, low=1, high=3), {"kind": "other"}, {"kind": "region", "title": "short"}]
    report = evidence()
    report["verdict"]["plots"] = drawn
    document = made(page.Folder((report,), ()))
    shown = outline(document)
    assert [key for _, attributes in shown.elements for key in attributes if key in ("src", "xlink:href")] == []
    assert [each["href"] for tag, each in shown.elements if tag == "a"] == ["#canary", "reports/x.json"]
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
    def proof(scenario: str, summary: str) -> dict[str, Any]:
        return evidence(scenario=scenario, verdict={"outcome": "FAIL", "summary": summary})

    reports = (proof("retry", "new"), proof("canary", "second"), proof("retry", "old"))
    shown = outline(made(page.Folder(reports, ()))).text
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


@pytest.mark.parametrize(("files", "said"), [(0, "0 proofs"), (1, "1 proof"), (2, "2 proofs")])
def test_the_command_writes_the_page_and_says_how_many_proofs_it_holds(tmp_path: Path, files: int, said: str) -> None:
    folder, output = tmp_path / "reports", tmp_path / "report.html"
    folder.mkdir()
    for number in range(files):
        (folder / f"{number}.json").write_text(json.dumps(evidence()))
    done = CliRunner().invoke(cli.main, ["report", str(folder), "-o", str(output)])
    assert (done.exit_code, done.output) == (0, f"{output}: {said}\n")
    assert ("There is no proof here." in output.read_text()) is (files == 0)


SITE = {
    "cluster": "shop-1",
    "kubernetes": "v1.34.10",
    "istio": "1.31.0",
    "nodes": [
        {"name": "control-1", "address": "192.0.2.10", "url": "http://127.0.0.1:21151"},
        {"name": "worker-1", "address": "192.0.2.11", "url": None},
        {"name": "evil", "address": "192.0.2.12", "url": "javascript:alert(1)"},
    ],
}


def test_the_page_says_of_which_cluster_and_versions_it_is_and_when_it_was_made() -> None:
    document = made(page.Folder((evidence(site=SITE),), ()), "folder")
    shown = outline(document).text
    assert "<title>meshstrap: shop-1</title>" in document and "folder" not in shown
    assert "1 scenario: 1 PASS. Made 2026-12-01 02:05 UTC." in shown
    assert "Kubernetesv1.34.10Istio1.31.0" in shown


def test_evidence_without_a_cluster_is_called_by_its_folder_and_that_of_several_by_all() -> None:
    assert "<title>meshstrap: lab</title>" in made(page.Folder((evidence(site={"cluster": ""}),), ()))
    both = (evidence(site=SITE), evidence(site={"cluster": "shop-2"}, scenario="retry"))
    assert "<title>meshstrap: shop-1, shop-2</title>" in made(page.Folder(both, ()))


def test_the_urls_that_people_can_open_are_links() -> None:
    requests = [
        {"node": "worker-1", "url": "http://192.0.2.11:30191", "host": None, "path": "/productpage?mark=a-1"},
        {"node": "control-1", "url": "http://127.0.0.1:21151", "host": "other.example", "path": "/x"},
        {"url": "http://nginx-svc:80/", "mark": "a"},
    ]
    shown = outline(made(page.Folder((evidence(site=SITE, observation={"rounds": [{"requests": requests}]}),), ())))
    assert [each["href"] for tag, each in shown.elements if tag == "a"] == [
        "#canary", "http://127.0.0.1:21151", "http://192.0.2.11:30191/productpage", "reports/x.json",
    ]  # fmt: skip


@given(
    st.recursive(TEXT | st.none(), lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXT, part, max_size=3))
)
def test_any_observation_makes_a_page(observation: Any) -> None:
    assert outline(made(page.Folder((evidence(observation={"rounds": observation}),), ()))).open == []
    assert outline(made(page.Folder((evidence(observation=observation, site=observation),), ()))).open == []


def test_thirty_proofs_are_a_small_page_with_a_row_and_a_link_for_each_that_is_older() -> None:
    requests = [{"mark": f"m-{number}", "node": "control-1", "said": "x" * 300} for number in range(400)]
    by_mark = {str(request["mark"]): {"lines": ["y" * 5000]} for request in requests}
    counters = {f"counter-{number}": number for number in range(400)}
    observed = {"rounds": [{"requests": requests, "logs": by_mark, "counters": counters}]}
    proofs = tuple(
        evidence(scenario=name, file=f"{number}: {name}.json", observation=observed)
        for number in range(3)
        for name in "abcdefghij"
    )
    document = made(page.Folder(proofs, ()))
    assert len(document) < 600_000
    assert document.count("... 392 more in the file") == 10
    assert document.count("384 more in the file") == document.count("376 more in the file") == 10
    links = [str(each["href"]) for tag, each in outline(document).elements if tag == "a"]
    assert links[-20:] == [f"reports/{number}%3A%20{name}.json" for number in (1, 2) for name in "abcdefghij"]


@pytest.mark.parametrize("output", ["report.html", "out/report.html"])
def test_the_files_are_linked_from_wherever_the_page_is_written(tmp_path: Path, output: str) -> None:
    folder, target = tmp_path / "my reports", tmp_path / output
    folder.mkdir()
    target.parent.mkdir(exist_ok=True)
    (folder / "a.json").write_text(json.dumps(evidence()))
    assert CliRunner().invoke(cli.main, ["report", str(folder), "-o", str(target)]).exit_code == 0
    (link,) = [str(each["href"]) for tag, each in outline(target.read_text()).elements if tag == "a"][1:]
    assert (target.parent / unquote(link)).resolve() == folder / "a.json"
