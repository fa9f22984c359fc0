"""A folder of evidence files as one page that needs nothing else: no network, no script, no file beside it.

What proofs wrote down is text of others (replies, logs, names): all of it is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from meshstrap.evidence import plots

_STYLE = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Folder:
    """What a folder of reports holds: the evidence, newest first, and a word on each file that is none."""

    reports: tuple[dict[str, Any], ...]
    passed_over: tuple[str, ...]


def read(directory: Path) -> Folder:
    """Read a folder of evidence files.

    Args:
        directory: where `report.write` put them; other files are passed over with a word.

    Raises:
        OSError: the directory cannot be read.
    """
    found, passed_over = [], []
    for path in sorted(directory.iterdir(), reverse=True):
        if path.suffix != ".json" or path.name.startswith("."):
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            passed_over.append(f"{path.name}: cannot be read: {error}")
            continue
        if not isinstance(content, dict) or not isinstance(content.get("verdict"), dict) or "scenario" not in content:
            # What a run changed lies in the same folder (`<time>-changes.json`): nothing wrong with it.
            if not path.name.endswith("-changes.json"):
                passed_over.append(f"{path.name}: is no evidence of a proof")
            continue
        found.append(content | {"file": path.name})
    return Folder(tuple(found), tuple(passed_over))


def render(folder: Folder, title: str) -> str:
    """Make the page.

    Args:
        folder: what is shown: of each scenario its newest proof whole, the ones before as lines.
        title: of the page.

    Returns:
        One HTML document.
    """
    newest: dict[str, dict[str, Any]] = {}
    earlier: list[dict[str, Any]] = []
    for report in folder.reports:
        if str(report["scenario"]) in newest:
            earlier.append(report)
        else:
            newest[str(report["scenario"])] = report
    shown = [newest[name] for name in sorted(newest)]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{_counts(shown)}</p>',
        _table("Newest proof of each scenario", shown, linked=True) if shown else "<p>There is no proof here.</p>",
        *(_section(report) for report in shown),
        _table("Earlier proofs", earlier) if earlier else "",
        _list("Passed over", folder.passed_over) if folder.passed_over else "",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{_STYLE.read_text()}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _counts(reports: list[dict[str, Any]]) -> str:
    counted: dict[str, int] = {}
    for report in reports:
        counted[_outcome(report)] = counted.get(_outcome(report), 0) + 1
    return f"{len(reports)} scenarios: " + ", ".join(
        f"{number} {outcome}" for outcome, number in sorted(counted.items())
    )


def _table(heading: str, reports: Iterable[Mapping[str, Any]], *, linked: bool = False) -> str:
    rows = "".join(
        f"<tr><td>{_name(report, linked)}</td><td>{_badge(report)}</td>"
        f'<td class="number">{escape(_when(report))}</td><td>{escape(_summary(report))}</td></tr>'
        for report in reports
    )
    return (
        f'<section><h2>{escape(heading)}</h2><div class="wide"><table><tr><th>scenario</th><th>verdict</th>'
        f"<th>when (UTC)</th><th>what was seen</th></tr>{rows}</table></div></section>"
    )


def _name(report: Mapping[str, Any], linked: bool) -> str:
    name = escape(str(report["scenario"]))
    return f'<a href="#{name}">{name}</a>' if linked else name


def _section(report: Mapping[str, Any]) -> str:
    verdict, name = report["verdict"], escape(str(report["scenario"]))
    drawn = "".join(plots.svg(plot) for plot in verdict.get("plots") or [] if isinstance(plot, dict))
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in verdict.get("lines") or [])
    site = report.get("site")
    surroundings: dict[str, Any] = site if isinstance(site, dict) else {}
    facts = {
        "claimed": str(report.get("claim", "")),
        "judged by": str(verdict.get("rule", "")),
        "nodes": ", ".join(_node(node) for node in surroundings.get("nodes") or []),
        "Kubernetes": str(surroundings.get("kubernetes", "")),
        "began": _when(report),
        "evidence": str(report["file"]),
    }
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    return (
        f'<section id="{name}"><div class="head"><h2>{name}</h2>{_badge(report)}</div>'
        f"<p>{escape(_summary(report))}</p>{drawn}{f'<ul>{lines}</ul>' if lines else ''}<dl>{listed}</dl>"
        + _folded("Images and pods", {key: surroundings.get(key) for key in ("images", "pods", "events")})
        + _folded("Manifests, as they were declared", report.get("objects"), documents=True)
        + _folded("Raw evidence", report.get("observation"))
        + "</section>"
    )


def _node(node: Any) -> str:
    return f"{node.get('name')} ({node.get('address')})" if isinstance(node, dict) else str(node)


def _folded(heading: str, content: Any, *, documents: bool = False) -> str:
    if not content or (isinstance(content, dict) and not any(content.values())):
        return ""
    if documents and isinstance(content, list):
        text = yaml.safe_dump_all(content, sort_keys=False, allow_unicode=True, width=120)
    else:
        text = json.dumps(content, indent=1, ensure_ascii=False)
    return f"<details><summary>{escape(heading)}</summary><pre>{escape(text)}</pre></details>"


def _list(heading: str, lines: Iterable[str]) -> str:
    return (
        f"<section><h2>{escape(heading)}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul></section>"
    )


def _badge(report: Mapping[str, Any]) -> str:
    outcome = _outcome(report)
    return f'<span class="{outcome}">{outcome}</span>'


def _outcome(report: Mapping[str, Any]) -> str:
    outcome = report["verdict"].get("outcome")
    return outcome if outcome in ("PASS", "FAIL") else "INCONCLUSIVE"


def _summary(report: Mapping[str, Any]) -> str:
    return str(report["verdict"].get("summary", ""))


def _when(report: Mapping[str, Any]) -> str:
    return str(report.get("started", ""))[:19].replace("T", " ")
