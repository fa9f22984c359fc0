"""The report in a real browser: it fits phone and desktop, is readable in light and dark, and loads nothing."""

from __future__ import annotations

import html
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshstrap.evidence import page, plots

# The page in a frame of a given width; what the browser made of it is written into the document, and dumped.
HARNESS = """<!DOCTYPE html><body>
<iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<script>
document.getElementById("frame").onload = event => {{
  const inner = event.target.contentDocument, root = inner.documentElement;
  const colour = element => getComputedStyle(element);
  const seen = {{
    overflow: root.scrollWidth - root.clientWidth,
    back: colour(inner.body).backgroundColor,
    texts: [...inner.querySelectorAll("h2, p, td, li, dd, dt, summary, a, .PASS, .FAIL, .INCONCLUSIVE")].map(
      element => [colour(element).color, element.closest("section") ? colour(element.closest("section")).backgroundColor
        : colour(inner.body).backgroundColor]),
    hidden: [...inner.querySelectorAll("h2, td, figure svg")].filter(
      element => !element.getBoundingClientRect().width).length,
    figures: inner.querySelectorAll("figure svg").length,
    loaded: performance.getEntriesByType("resource").length,
    details: [...inner.querySelectorAll("details")].filter(element => element.open).length,
  }};
  document.title = JSON.stringify(seen);
}};
</script></body>"""

EVIDENCE: dict[str, Any] = {
    "scenario": "canary",
    "claim": "of the requests 10 % reach v2",
    "started": "2026-11-27T10:00:00.5+00:00",
    "verdict": {
        "outcome": "PASS",
        "summary": "v2 answered 37 of 400 (9.2 %)",
        "rule": "in the exact binomial region",
        "lines": ["the gateway's access log agrees on every mark", "x" * 300],
        "plots": [
            plots.region("requests that v2 answered", count=37, n=400, low=22, high=61),
            plots.durations(
                "what requests took", {"nginx-svc": [2001, 2010], "nginx-patient": [10003]}, limit=2000, unit="ms"
            ),
            plots.timeline("ejected replicas", {"ejections_active": [[0, 0], [3, 1], [18, 0]]}, unit="s"),
        ],
    },
    "site": {
        "cluster": "shop-1",
        "nodes": [{"name": "control-1", "address": "192.0.2.10", "url": "http://192.0.2.10:30191"}],
        "istio": "1.31.0",
        "kubernetes": "v1.34.10",
        "images": {"a": "b" * 200},
    },
    "objects": [{"kind": "Namespace", "metadata": {"name": "canary"}}],
    "observation": {"log": ["y" * 500]},
}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reports")
    for name, outcome in (("canary", "PASS"), ("timeout", "FAIL"), ("retry", "INCONCLUSIVE")):
        evidence = EVIDENCE | {"scenario": name, "verdict": EVIDENCE["verdict"] | {"outcome": outcome}}
        (folder / f"2026-11-27T100000.0Z-{name}.json").write_text(json.dumps(evidence))
        (folder / f"2026-11-26T100000.0Z-{name}.json").write_text(json.dumps(evidence))
    (folder / "2026-11-27T100000.0Z-broken.json").write_text("{")
    return page.render(page.read(folder), "lab", files="reports", made=datetime(2026, 12, 1, tzinfo=UTC))


def look(document: str, width: int, scheme: str, directory: Path) -> dict[str, object]:
    harness = directory / "harness.html"
    harness.write_text(HARNESS.format(width=width, page=html.escape(document, quote=True)))
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={directory / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        f"--window-size={width + 20},900", "--virtual-time-budget=5000", "--dump-dom", harness.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found, done.stdout[:500] + done.stderr[-2000:]
    seen: dict[str, object] = json.loads(html.unescape(found[1]))
    return seen


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21. Source: WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_is_readable(document: str, width: int, scheme: str, tmp_path: Path) -> None:
    seen = look(document, width, scheme, tmp_path)
    assert seen["overflow"] == 0
    assert (seen["hidden"], seen["figures"], seen["details"]) == (0, 9, 0)
    assert seen["loaded"] == 0
    back, texts = str(seen["back"]), seen["texts"]
    assert (contrast(back, "rgb(0, 0, 0)") < 2) is (scheme == "dark"), back
    assert isinstance(texts, list) and len(texts) > 40
    # 4.5 is what WCAG asks of text in normal size (1.4.3, level AA).
    assert min(contrast(front, behind) for front, behind in texts) >= 4.5
