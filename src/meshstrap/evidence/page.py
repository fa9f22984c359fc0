"""A folder of evidence files as one page to send to people: no network and no script, and it reads without the files.

What is long is in the files alone, and the page links them.

What proofs wrote down is text of others (replies, logs, names): all of it is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from meshstrap.evidence import plots

# So much of each part of the evidence is shown: a few of each kind, where 400 requests make a page of megabytes.
_SHOWN = 8
_KEYS, _CHARACTERS = 24, 2000
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


def render(folder: Folder, name: str, *, files: str, made: datetime) -> str:
    """Make the page. Its title is the cluster's name, or those of all clusters that the proofs are of.

    Args:
        folder: what is shown: of each scenario its newest proof, the ones before as lines.
        name: the title where the evidence, of an older meshstrap, names no cluster.
        files: where the evidence files are, seen from the page's directory, for the links to them.
        made: when, with its zone.

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
    shown = [newest[each] for each in sorted(newest)]
    clusters = dict.fromkeys(cluster for report in shown if (cluster := str(_site(report).get("cluster") or "")))
    title = f"meshstrap: {', '.join(clusters) or name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{_counts(shown)}. Made {made.astimezone(UTC):%Y-%m-%d %H:%M} UTC.</p>',
        _table("Newest proof of each scenario", shown, linked=True) if shown else "<p>There is no proof here.</p>",
        *(_section(report, files) for report in shown),
        _table("Earlier proofs", earlier, files=files) if earlier else "",
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
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items()))
    return f"{len(reports)} scenario{'' if len(reports) == 1 else 's'}{told and f': {told}'}"


def _table(
    heading: str, reports: Iterable[Mapping[str, Any]], *, linked: bool = False, files: str | None = None
) -> str:
    """Give a table of proofs: linked to their sections on the page, or to their files in a directory."""
    rows = "".join(
        f"<tr><td>{_name(report, linked)}</td><td>{_badge(report)}</td>"
        f'<td class="number">{_when(report) if files is None else _file(report, files, _when(report))}</td>'
        f"<td>{escape(_summary(report))}</td></tr>"
        for report in reports
    )
    return (
        f'<section><h2>{escape(heading)}</h2><div class="wide"><table><tr><th>scenario</th><th>verdict</th>'
        f"<th>when (UTC)</th><th>what was seen</th></tr>{rows}</table></div></section>"
    )


def _name(report: Mapping[str, Any], linked: bool) -> str:
    name = escape(str(report["scenario"]))
    return f'<a href="#{name}">{name}</a>' if linked else name


def _file(report: Mapping[str, Any], files: str, text: str = "") -> str:
    name = str(report["file"])
    return f'<a href="{escape(quote(f"{files}/{name}"))}">{text or escape(name)}</a>'


def _site(report: Mapping[str, Any]) -> dict[str, Any]:
    site = report.get("site")
    return site if isinstance(site, dict) else {}


def _section(report: Mapping[str, Any], files: str) -> str:
    verdict, name = report["verdict"], escape(str(report["scenario"]))
    drawn = "".join(plots.svg(plot) for plot in verdict.get("plots") or [] if isinstance(plot, dict))
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in verdict.get("lines") or [])
    surroundings, observation = _site(report), report.get("observation")
    urls = _urls(observation)
    facts = {
        "claimed": escape(str(report.get("claim", ""))),
        "judged by": escape(str(verdict.get("rule", ""))),
        "nodes": ", ".join(_node(node, urls) for node in surroundings.get("nodes") or []),
        "Kubernetes": escape(str(surroundings.get("kubernetes", ""))),
        "Istio": escape(str(surroundings.get("istio", ""))),
        "not told": escape(str(surroundings.get("incomplete", ""))),
        "began": _when(report),
        "evidence": _file(report, files),
    }
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in facts.items() if value)
    return (
        f'<section id="{name}"><div class="head"><h2>{name}</h2>{_badge(report)}</div>'
        f"<p>{escape(_summary(report))}</p>{drawn}{f'<ul>{lines}</ul>' if lines else ''}<dl>{listed}</dl>"
        + _folded("Images and pods", {key: _shortened(surroundings.get(key)) for key in ("images", "pods", "events")})
        + _folded("Manifests, as they were declared", report.get("objects"), documents=True)
        + _folded("Raw evidence, of long lists the beginning", _shortened(observation))
        + "</section>"
    )


def _urls(observation: Any) -> dict[str, str]:
    """Give for each node the URL that was asked through it, as far as a browser can ask the same."""
    found: dict[str, str] = {}
    rounds = observation.get("rounds") if isinstance(observation, dict) else None
    for each in rounds if isinstance(rounds, list) else []:
        requests = each.get("requests") if isinstance(each, dict) else None
        for request in requests if isinstance(requests, list) else []:
            # A browser sends no other Host than the URL's.
            if isinstance(request, dict) and "node" in request and not request.get("host"):
                path = str(request.get("path") or "/").partition("?")[0]
                found.setdefault(str(request["node"]), f"{request.get('url')}{path}")
    return found


def _node(node: Any, urls: Mapping[str, str]) -> str:
    if not isinstance(node, dict):
        return escape(str(node))
    name = str(node.get("name"))
    url = urls.get(name) or str(node.get("url") or "")
    # Evidence is text of others: no link but to a web page.
    link = f' <a href="{escape(url)}">{escape(url)}</a>' if url.startswith(("http://", "https://")) else ""
    return escape(f"{name} ({node.get('address')})") + link


def _shortened(value: Any) -> Any:
    """Copy data with the beginning of each long part, and a word on the rest, which the file has."""
    if isinstance(value, str) and len(value) > _CHARACTERS:
        return f"{value[:_CHARACTERS]} ... {len(value) - _CHARACTERS} characters more in the file"
    if isinstance(value, dict):
        most = _KEYS if not any(isinstance(part, dict | list) for part in value.values()) else 2 * _SHOWN
        short = {key: _shortened(value[key]) for key in list(value)[:most]}
        return short | ({"...": f"{len(value) - most} more in the file"} if len(value) > most else {})
    if not isinstance(value, list):
        return value
    rest = len(value) - _SHOWN
    return [_shortened(part) for part in value[:_SHOWN]] + ([f"... {rest} more in the file"] if rest > 0 else [])


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
    return escape(str(report.get("started", ""))[:19].replace("T", " "))
