"""Prove every scenario of a standing site again and again, and tell each verdict: are the proofs stable?

    uv run python -m bench.proofs --rounds 20       # on a lab with site.py and scenarios.py through

Each round is `deploys/verify.py` as people run it. It is logged as it ends, and a round that broke off is a line like
the others. The exit code is 1 where one scenario of one round did not pass.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from bench.measure import head, row, run

from meshstrap import scenarios

REPORTS = Path("reports")
MISSING = "no verdict"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    seen: dict[str, Counter[str]] = {name: Counter() for name in scenarios.names()}
    head("round", "seconds", "not passed")
    for number in range(1, given.rounds + 1):
        before = set(REPORTS.glob("*.json"))
        seconds = run(["pyinfra", "inventory.py", "deploys/verify.py", "-y"], accept=range(256)).seconds
        verdicts = _verdicts(set(REPORTS.glob("*.json")) - before)
        for name, counted in seen.items():
            counted[verdicts.get(name, MISSING)] += 1
        wrong = [f"{name}: {verdicts.get(name, MISSING)}" for name in seen if verdicts.get(name) != "PASS"]
        row(number, f"{seconds:.0f}", "; ".join(wrong) or "-")
    outcomes = ("PASS", "FAIL", "INCONCLUSIVE", MISSING)
    head("scenario", *outcomes)
    for name, counted in seen.items():
        row(name, *(counted[outcome] for outcome in outcomes))
    sys.exit(0 if all(counted["PASS"] == given.rounds for counted in seen.values()) else 1)


def _verdicts(reports: set[Path]) -> dict[str, str]:
    """Read which scenario ended how, from the evidence files of one round."""
    found = {}
    for path in reports:
        content = json.loads(path.read_text())
        if "verdict" in content:
            found[content["scenario"]] = content["verdict"]["outcome"]
    return found


if __name__ == "__main__":
    main()
