"""We test `meshstrap lint` as people and pipelines call it: what it prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from meshstrap.cli import main
from meshstrap.mesh import gateway
from meshstrap.scenarios import find, names

TUTORIAL = Path(__file__).parent / "mesh" / "tutorial"


def lint(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["lint", *map(str, arguments)])


def test_findings_are_printed_with_their_places_and_end_with_exit_code_1() -> None:
    result = lint(TUTORIAL / "retry.yaml", TUTORIAL / "nginx.yaml")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    place = f"{TUTORIAL / 'retry.yaml'}:12: document 1, VirtualService/nginx-vs .spec.http[0].retries"
    assert lines[0] == f"{place} [retry-on]"
    assert "    instead: retryOn with what is to be retried" in result.output
    assert lines[-1] == "2 findings in 4 objects of 2 files, for Istio 1.31"


def test_what_is_shipped_is_clean_and_ends_with_exit_code_0() -> None:
    result = lint(gateway.SHARED_GATEWAY, *(find(name).manifests for name in names()))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("0 findings in ")


def test_json_is_for_machines() -> None:
    result = lint(TUTORIAL, "--json", "--istio-version", "1.23.4")
    assert result.exit_code == 1
    assert [each["rule"] for each in json.loads(result.output)] == [
        "manifest",
        "port-name",
        "declared-twice",
        "self-ejection",
        "per-try-timeout",
    ]
    assert json.loads(lint(TUTORIAL / "nginx.yaml", "--json").output) == []


def test_what_cannot_be_meant_is_a_usage_error(tmp_path: Path) -> None:
    assert lint().exit_code == 2
    assert lint(tmp_path / "gone.yaml").exit_code == 2
    assert "'latest' is no version" in lint(TUTORIAL, "--istio-version", "latest").output


def test_a_directory_without_manifests_is_not_clean(tmp_path: Path) -> None:
    result = lint(tmp_path)
    assert result.exit_code == 1
    assert "no *.yaml, *.yml or *.json file here" in result.output
