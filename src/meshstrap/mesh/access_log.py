"""Read Envoy access-log lines in Istio's default formats: TEXT (the same fields from 1.13 to 1.31) and JSON.

Source: istio/istio pilot/pkg/model/telemetry_logging.go, `EnvoyTextLogFormat` and `EnvoyJSONLogFormatIstio`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

# The query parameter that carries a request's own mark. Not x-request-id: Envoy rewrites a digit of it.
MARK = "mark"
# The mark as a User-Agent, for what hands that header on and not the query: Bookinfo's services do.
AGENT = "meshstrap/"

_TEXT = re.compile(
    r"^\[(?P<start_time>[^\]]+)\] "
    r'"(?P<method>\S+) (?P<path>.*?) (?P<protocol>\S+)" '
    r"(?P<response_code>\d+) (?P<response_flags>\S+) (?P<response_code_details>\S+) "
    r'(?P<connection_termination_details>.*?) "(?P<upstream_transport_failure_reason>.*?)" '
    r"(?P<bytes_received>\d+) (?P<bytes_sent>\d+) (?P<duration>\d+|-) (?P<upstream_service_time>\d+|-) "
    r'"(?P<x_forwarded_for>.*?)" "(?P<user_agent>.*?)" "(?P<request_id>.*?)" "(?P<authority>.*?)" '
    r'"(?P<upstream_host>.*?)" (?P<upstream_cluster>\S+) (?P<upstream_local_address>\S+) '
    r"(?P<downstream_local_address>\S+) (?P<downstream_remote_address>\S+) "
    r"(?P<requested_server_name>\S+) (?P<route_name>.+?)\s*$"
)


@dataclass(frozen=True)
class Entry:
    """One request as a proxy logged it.

    Args:
        time: when the proxy began the request, as logged.
        path: path with query.
        code: HTTP status, 0 when the request was cancelled.
        flags: Envoy's response flags, such as UO, DI, UH; several may come together.
        details: response code details, such as `via_upstream`.
        cluster: upstream cluster, such as `outbound|80|v1|canary.canary.svc.cluster.local`; empty without one.
        upstream: address of the chosen endpoint; empty when none was reached.
        duration: milliseconds from first byte in to last byte out; None when it was not logged.
        upstream_time: milliseconds that the upstream itself took; None when it was not logged.
        authority: the Host that was asked for.
        agent: the User-Agent.
        raw: the line itself.
    """

    time: str
    method: str
    path: str
    code: int
    flags: tuple[str, ...]
    details: str
    cluster: str
    upstream: str
    duration: int | None
    upstream_time: int | None
    authority: str
    agent: str
    raw: str

    @property
    def subset(self) -> str:
        """Name the subset that the chosen cluster stands for; empty for none."""
        parts = self.cluster.split("|")
        return parts[2] if len(parts) == 4 else ""


def parse_line(line: str) -> Entry | None:
    """Read one line of a proxy's log.

    Args:
        line: a line of the container `istio-proxy`, with or without its end of line.

    Returns:
        The request; None for a line of Envoy or pilot-agent that is no access-log line.
    """
    text = line.strip()
    fields = _json_fields(text) if text.startswith("{") else _text_fields(text)
    if fields is None:
        return None
    return Entry(
        time=fields.get("start_time", ""),
        method=fields.get("method", ""),
        path=fields["path"],
        code=int(fields["response_code"]),
        flags=tuple(flag for flag in fields.get("response_flags", "").split(",") if flag),
        details=fields.get("response_code_details", ""),
        # Istio 1.23 logs the name with the stat delimiter `;` at its end (UPSTREAM_CLUSTER, _RAW from 1.24).
        cluster=fields.get("upstream_cluster", "").rstrip(";"),
        upstream=fields.get("upstream_host", ""),
        duration=_number(fields.get("duration", "")),
        upstream_time=_number(fields.get("upstream_service_time", "")),
        authority=fields.get("authority", ""),
        agent=fields.get("user_agent", ""),
        raw=text,
    )


def mark_of(path: str) -> str | None:
    """Read a request's mark from its path and query; None when it carries none, or several."""
    try:
        marks = parse_qs(urlsplit(path).query).get(MARK, [])
    except ValueError:
        return None
    return marks[0] if len(marks) == 1 else None


def mark_of_agent(agent: str) -> str | None:
    """Read a request's mark from its User-Agent; None when that carries none."""
    mark = agent.removeprefix(AGENT)
    return mark if mark and mark != agent else None


def by_mark(lines: Iterable[str]) -> dict[str, list[Entry]]:
    """Collect the access-log lines of marked requests.

    Args:
        lines: lines of any number of proxies' logs, in any order, other lines among them.

    Returns:
        For each mark every line that carries exactly it; marks are compared whole, so 1 is not found in 10.
    """
    found: dict[str, list[Entry]] = {}
    for line in lines:
        if MARK not in line and AGENT not in line:
            continue
        entry = parse_line(line)
        mark = (mark_of(entry.path) or mark_of_agent(entry.agent)) if entry else None
        if entry and mark:
            found.setdefault(mark, []).append(entry)
    return found


def _text_fields(text: str) -> dict[str, str] | None:
    found = _TEXT.match(text)
    if found is None:
        return None
    return {key: "" if value == "-" else value for key, value in found.groupdict().items()}


def _json_fields(text: str) -> dict[str, str] | None:
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("path"), str):
        return None
    if not isinstance(fields.get("response_code"), int | str) or not str(fields["response_code"]).isdigit():
        return None
    return {key: "" if value in (None, "-") else str(value) for key, value in fields.items()}


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
