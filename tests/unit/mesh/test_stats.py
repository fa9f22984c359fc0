"""Counters under both spellings; one that is missing is not zero."""

from __future__ import annotations

import pytest

from meshstrap.mesh.stats import cluster_value, parse

CLUSTER = "outbound|8000||httpbin.default.svc.cluster.local"


@pytest.mark.parametrize("delimiter", [".", ";."])
def test_both_spellings_are_found_and_neighbours_are_not(delimiter: str) -> None:
    stats = parse(
        f"cluster.{CLUSTER}{delimiter}upstream_rq_pending_overflow: 33\n"
        f"cluster.{CLUSTER}{delimiter}upstream_rq_pending_overflow_total: 5\n"
        f"cluster.{CLUSTER.replace('httpbin', 'xhttpbin')}{delimiter}upstream_rq_pending_overflow: 7\n"
        f"cluster.{CLUSTER}{delimiter}upstream_cx_length_ms: P0(nan,1.0) P25(nan,1.025)\n"
        "control_plane.identifier: {}\n\n"
    )
    assert cluster_value(stats, CLUSTER, "upstream_rq_pending_overflow") == 33
    assert len(stats) == 3


def test_a_missing_counter_is_none_and_a_zero_is_zero() -> None:
    stats = parse(f"cluster.{CLUSTER};.upstream_rq_timeout: 0\n")
    assert cluster_value(stats, CLUSTER, "upstream_rq_timeout") == 0
    assert cluster_value(stats, CLUSTER, "upstream_rq_pending_overflow") is None
