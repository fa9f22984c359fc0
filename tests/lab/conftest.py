"""The lab as a standing site, and the ways in which its tests look at it and disturb it."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a person ask how stable the verdicts are: pytest tests/lab -m broken --rounds 10."""
    parser.addoption("--rounds", type=int, default=1, help="how often each mesh is broken (tests marked broken)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat the tests that break a mesh as often as asked for."""
    rounds = metafunc.config.getoption("--rounds")
    if rounds > 1 and metafunc.definition.get_closest_marker("broken"):
        metafunc.fixturenames.append("round_")
        metafunc.parametrize("round_", range(1, rounds + 1))


@dataclass(frozen=True)
class Run:
    """A finished run of a deploy with --json: which operations changed, would change or failed, and what was said."""

    code: int
    said: str
    document: dict[str, Any]

    @property
    def planned(self) -> list[str]:
        """Name the operations that would change something (of a --dry run)."""
        return [each["name"] for each in self.document["plan"] if each["hosts_with_change"]]

    @property
    def changed(self) -> list[str]:
        """Name the operations that changed something (of a run)."""
        return [name for name, each in self._results() if each["success"]]

    @property
    def failed(self) -> list[str]:
        """Name the operations that failed."""
        return [name for name, each in self._results() if each["error"]]

    def _results(self) -> list[tuple[str, dict[str, Any]]]:
        # There are none when every host failed, or when data were refused.
        assert self.document.get("results"), self.said
        return [(each["name"], each) for each in self.document["results"]["operations"]]


@pytest.fixture(scope="session")
def deploy(run_pyinfra: Callable[..., Finished]) -> Callable[..., Run]:
    """Run a deploy: deploy("canary", "--dry") -> Run; -y is added where it is no dry run."""

    def run(name: str, *arguments: str, **settings: Any) -> Run:
        given = [*arguments, *([] if "--dry" in arguments else ["-y"]), "--json"]
        finished = run_pyinfra("inventory.py", f"deploys/{name}.py", *given, **settings)
        try:
            document = json.loads(finished.stdout)
        except ValueError:
            document = {}
        return Run(finished.returncode, finished.stderr, document)

    return run


@pytest.fixture(scope="session")
def standing(lab: Lab, deploy: Callable[..., Run]) -> Lab:
    """The lab with everything that deploys/site.py makes; where it stands already, nothing changes."""
    made = deploy("site")
    assert made.code == 0, made.said
    return lab


@pytest.fixture(scope="session")
def kubectl(standing: Lab, on_node: Callable[..., Finished]) -> Callable[..., str]:
    """Run kubectl on control-1 as a person would, by hand: kubectl("get", "nodes", stdin="") -> what it prints."""

    def run(*arguments: str, stdin: str = "") -> str:
        words = ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", *arguments]
        script = f"printf %s {shlex.quote(stdin)} | {shlex.join(words)}" if stdin else shlex.join(words)
        done = on_node(standing, "control-1", script, timeout=120)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def objects(kubectl: Callable[..., str]) -> Callable[..., dict[str, dict[str, Any]]]:
    """Read objects by name: objects("deployments", "-n", "canary") -> {name: object}."""

    def read(*arguments: str) -> dict[str, dict[str, Any]]:
        found = json.loads(kubectl("get", *arguments, "-o", "json"))
        return {item["metadata"]["name"]: item for item in found["items"]}

    return read
