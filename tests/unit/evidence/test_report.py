"""Evidence files: complete or absent, private, and without secrets."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from meshstrap.evidence import report
from meshstrap.evidence.verdict import Outcome, Verdict

AT = datetime(2026, 11, 23, 19, 20, 1, 5000, tzinfo=UTC)


def test_a_report_is_one_private_json_file_named_by_utc_time(tmp_path: Path) -> None:
    verdict = Verdict(Outcome.PASS, "37 of 400", "exact region", ("a line",), {"count": 37})
    local = AT.astimezone(timezone(timedelta(hours=8)))
    path = report.write(tmp_path / "reports", "canary", {"verdict": verdict.as_dict()}, at=local)
    assert path.name == "2026-11-23T192001.005000Z-canary.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "verdict": {
            "outcome": "PASS",
            "summary": "37 of 400",
            "rule": "exact region",
            "lines": ["a line"],
            "numbers": {"count": 37},
            "plots": [],
        }
    }
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "2026-11-23T192001.005000Z-canary.json").mkdir()  # the target's name is taken by a directory
    with pytest.raises(OSError):
        report.write(tmp_path, "canary", {}, at=AT)
    assert [path.name for path in tmp_path.iterdir()] == ["2026-11-23T192001.005000Z-canary.json"]


@pytest.mark.parametrize("name", ["../evil", "", "Canary", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        report.write(tmp_path, name, {}, at=AT)


def test_a_time_without_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        report.write(tmp_path, "canary", {}, at=datetime(2026, 11, 23))


def test_secrets_are_masked_wherever_they_stand() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    before = {
        "objects": [{"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "c2VjcmV0"}, "stringData": None}],
        "config": {"users": [{"user": {"client-key-data": "TFMwdEx", "token": "abc"}}]},
        "log": f"join with abcdef.0123456789abcdef and {jwt}\n{key}\nend",
        "header": "Authorization: Bearer s3cr3t",
    }
    text = json.dumps(report.mask(before))
    for secret in ("c2VjcmV0", "TFMwdEx", '"abc"', "0123456789abcdef", "eyJ", "MIIE", "s3cr3t"):
        assert secret not in text
    assert "end" in text and '"name": "s"' in text
    assert before["objects"][0]["data"] == {"a": "c2VjcmV0"}  # type: ignore[index]


def test_evidence_itself_is_not_mistaken_for_a_secret() -> None:
    line = '[2026-11-23T19:20:01.005Z] "GET /?mark=a1b2c3d4e5f60718-0001 HTTP/1.1" 200 - "outbound|80|v1|canary"'
    assert report.mask({"line": line, "tokens": 3}) == {"line": line, "tokens": 3}
