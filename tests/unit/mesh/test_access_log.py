"""Access-log lines of Istio 1.13 to 1.31, TEXT and JSON, and what is none."""

from __future__ import annotations

import pytest

from meshstrap.mesh.access_log import by_mark, mark_of, parse_line

# The form that istio.io documents since 1.13 (tasks/observability/logs/access-log), with our path.
TEXT = (
    '[2026-11-23T19:20:01.005Z] "GET /?mark=run-0001 HTTP/1.1" 200 - via_upstream - "-" 0 3 5 4 "10.244.0.1" '
    '"meshstrap" "84961386-6d84-929d-98bd-c5aee93b5c88" "canary.example" "10.244.1.27:80" '
    "outbound|80|v1|canary.canary.svc.cluster.local 10.244.1.9:37652 10.244.1.9:8080 10.244.0.1:41854 - -\n"
)
# As the lab's gateway wrote it: Istio 1.31.0, Envoy 1.39.3.
RECORDED = (
    '[2026-11-23T18:06:48.194Z] "GET /?mark=e15fd0b1ef13c3fa-0001 HTTP/1.1" 200 - via_upstream - "-" 0 10 4 3 '
    '"10.244.1.1" "meshstrap" "7b120ae0-ebc6-991e-a1b5-777609e39617" "172.29.182.11:30191" "10.244.1.6:80" '
    "outbound|80|v1|canary.canary.svc.cluster.local 10.244.1.3:53120 10.244.1.3:8080 10.244.1.1:18879 - -"
)
# Envoy 1.39.3 with the same format and no healthy endpoint.
UNHEALTHY = (
    '[2026-11-23T18:00:49.088Z] "GET /?mark=a-0003 HTTP/1.1" 503 UH no_healthy_upstream - "-" 0 19 1 - "-" '
    '"curl/7.88.1" "344029c6-4a3a-47f4-9838-2281550c171f" "127.0.0.1:18080" "-" '
    "outbound|80|v1|canary.canary.svc.cluster.local - 127.0.0.1:18080 127.0.0.1:40614 - -"
)
OVERFLOW = (
    '[2026-11-23T19:20:02.005Z] "GET /delay/1 HTTP/1.1" 503 UO,URX upstream_reset_before_response_started{overflow} '
    '- "-" 0 81 0 - "-" "fortio.org/fortio-1.66.5" "8f7d" "httpbin:8000" "-" '
    "outbound|8000||httpbin.default.svc.cluster.local; - 10.96.3.4:8000 10.244.1.3:5000 - default\n"
)
JSON = (
    '{"start_time":"2026-11-23T19:20:01.005Z","method":"GET","path":"/?mark=run-0002","protocol":"HTTP/1.1",'
    '"response_code":200,"response_flags":"-","response_code_details":"via_upstream","duration":5,'
    '"upstream_service_time":"4","authority":"canary.example","upstream_host":"10.244.1.28:80",'
    '"upstream_cluster":"outbound|80|v2|canary.canary.svc.cluster.local","requested_server_name":null}\n'
)


def test_a_text_line_gives_its_fields() -> None:
    entry = parse_line(TEXT)
    assert entry is not None
    assert (entry.method, entry.path, entry.code, entry.flags) == ("GET", "/?mark=run-0001", 200, ())
    assert (entry.details, entry.duration, entry.upstream_time) == ("via_upstream", 5, 4)
    assert (entry.cluster, entry.subset) == ("outbound|80|v1|canary.canary.svc.cluster.local", "v1")
    assert (entry.upstream, entry.authority) == ("10.244.1.27:80", "canary.example")


def test_recorded_lines_of_1_31_give_their_fields() -> None:
    served, refused = parse_line(RECORDED), parse_line(UNHEALTHY)
    assert served is not None and refused is not None
    assert (served.path, served.code, served.flags, served.subset) == ("/?mark=e15fd0b1ef13c3fa-0001", 200, (), "v1")
    assert (served.duration, served.upstream_time, served.upstream) == (4, 3, "10.244.1.6:80")
    assert (refused.code, refused.flags, refused.details) == (503, ("UH",), "no_healthy_upstream")
    assert (refused.upstream, refused.upstream_time, refused.subset) == ("", None, "v1")


def test_flags_are_split_on_the_comma_and_an_old_cluster_name_loses_its_delimiter() -> None:
    entry = parse_line(OVERFLOW)
    assert entry is not None
    assert entry.flags == ("UO", "URX")
    assert (entry.cluster, entry.subset) == ("outbound|8000||httpbin.default.svc.cluster.local", "")
    assert (entry.upstream, entry.upstream_time) == ("", None)
    assert entry.details == "upstream_reset_before_response_started{overflow}"


def test_a_json_line_gives_the_same_fields() -> None:
    entry = parse_line(JSON)
    assert entry is not None
    assert (entry.path, entry.code, entry.flags, entry.subset) == ("/?mark=run-0002", 200, (), "v2")
    assert (entry.duration, entry.upstream_time) == (5, 4)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2026-11-23T19:19:58.412345Z\tinfo\tEnvoy proxy is ready",
        '{"level":"info","msg":"Envoy proxy is ready"}',
        '{"path":"/","response_code":null}',
        "{broken",
        "[2026-11-23T19:20:01.005Z] half a li",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert parse_line(line) is None


def test_marks_are_compared_whole_and_every_line_of_a_mark_is_kept() -> None:
    found = by_mark([TEXT, JSON, TEXT, TEXT.replace("run-0001", "run-00011"), "noise with mark=run-0001"])
    assert {mark: len(entries) for mark, entries in found.items()} == {"run-0001": 2, "run-0002": 1, "run-00011": 1}


@pytest.mark.parametrize(
    ("path", "mark"),
    [
        ("/?mark=a", "a"),
        ("/x?y=1&mark=a&z=2", "a"),
        ("/?mark=a&mark=b", None),
        ("/?remark=a", None),
        ("/mark=a", None),
        ("//[", None),
    ],
)
def test_the_mark_is_one_query_parameter(path: str, mark: str | None) -> None:
    assert mark_of(path) == mark
