"""Time the main job: from a built bundle and nothing running to the canary's verdict, and the runs after it.

    uv run python -m bench.main_job            # takes the lab down first, and leaves it up

Prints the seconds of every operation as pyinfra starts it, the share of the whole, and the second runs. Read the
figures as ratios of one run: the machine is shared.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time

STARTS = re.compile(r"Starting operation: (.+?)(?: \(.*)?$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def run(*command: str) -> tuple[float, dict[str, float]]:
    """Run a command; return its seconds, and those of each pyinfra operation in it."""
    operations: dict[str, float] = {}
    begin = step_begin = time.monotonic()
    step = "connect and prepare"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        started = STARTS.search(COLOUR.sub("", line).rstrip())
        if started:
            now = time.monotonic()
            operations[step] = operations.get(step, 0.0) + now - step_begin
            step, step_begin = started[1], now
    code = process.wait()
    operations[step] = operations.get(step, 0.0) + time.monotonic() - step_begin
    if code != 0:
        sys.exit("".join(lines) + f"\n{' '.join(command)}: exit code {code}")
    return time.monotonic() - begin, operations


def deploy(name: str, *data: str) -> tuple[float, dict[str, float]]:
    return run("pyinfra", "inventory.py", f"deploys/{name}.py", "-y", *data)


def main() -> None:
    run("meshstrap", "lab", "down")
    built, _ = run("meshstrap", "lab", "build")
    parts = {"lab up": run("meshstrap", "lab", "up")[0]}
    for name in ("site", "canary"):
        _, operations = deploy(name)
        parts |= {f"{name}: {operation}": seconds for operation, seconds in operations.items()}
    whole = sum(parts.values())
    print(f"{'second lab build':60} {built:7.1f} s")
    for part, seconds in parts.items():
        print(f"{part[:60]:60} {seconds:7.1f} s {seconds / whole:5.0%}")
    print(f"{'bare machines to verdict':60} {whole:7.1f} s")
    for label, data in (("second canary, prove=false", ["--data", "prove=false"]), ("second canary, proved", [])):
        print(f"{label:60} {deploy('canary', *data)[0]:7.1f} s")
    print(f"{'second site':60} {deploy('site')[0]:7.1f} s")


if __name__ == "__main__":
    main()
