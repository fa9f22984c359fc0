"""The version rule: supported, outside its row, no row."""

from __future__ import annotations

from typing import Any

import pytest

from meshstrap.mesh.versions import TABLE, Support, check, parse


@pytest.mark.parametrize(
    ("istio", "kubernetes", "support"),
    [
        ("1.13.1", "v1.23.17", Support.SUPPORTED),
        ("1.13.9", "1.19.16", Support.UNSUPPORTED),
        ("1.18.0", "1.28.0", Support.UNSUPPORTED),  # the tutorial's "1.24 and newer: 1.18+" is wrong upward too
        ("1.10.0", "1.22.1", Support.UNSUPPORTED),
        ("1.28.2", "1.34.10", Support.SUPPORTED),
        ("1.30.5", "1.36.0", Support.SUPPORTED),
        ("1.30.5", "1.31.9", Support.UNSUPPORTED),
        ("1.31.0", "1.34.10", Support.UNKNOWN),
        ("1.99.0", "1.34.10", Support.UNKNOWN),
    ],
)
def test_the_pair_is_judged_by_its_row(istio: str, kubernetes: str, support: Support) -> None:
    assert check(istio, kubernetes).support is support


def test_a_pair_outside_its_row_names_the_row_and_what_would_do() -> None:
    message = check("1.18.7", "v1.34.10").message
    assert "Istio 1.18 supports Kubernetes 1.24 to 1.27" in message
    assert message.endswith("Kubernetes 1.34 is supported by Istio 1.28, 1.29, 1.30")


def test_an_istio_without_a_row_names_the_minimum_that_istioctl_warns_of() -> None:
    assert "warns only below Kubernetes 1.32" in check("1.31.0", "1.34.10").message
    assert "warns below Kubernetes 1.32, and this is below" in check("1.31.0", "1.30.1").message


def test_every_row_is_a_range_and_rows_do_not_go_back() -> None:
    rows = [row for _, row in sorted(TABLE.items()) if row.oldest and row.newest]
    assert all(row.oldest <= row.newest for row in rows if row.oldest and row.newest)
    assert [row.newest for row in rows] == sorted(row.newest for row in rows if row.newest)


@pytest.mark.parametrize("text", ["v1.34.10", "1.34", "1.34+", "1.34.0-rc.1", " v1.34.1\n"])
def test_versions_are_read_in_the_forms_that_programs_print(text: str) -> None:
    assert parse(text) == (1, 34)


@pytest.mark.parametrize("text", ["", "latest", "1", "one.two", "-1.2"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no version"):
        parse(text)


@pytest.mark.parametrize("number", [1.31, 1, None, True])
def test_a_number_is_no_version_and_is_told_how_to_write_one(number: Any) -> None:
    with pytest.raises(ValueError, match=r"write it with its patch version, 1\.31\.0") as refusal:
        check(number, "v1.34.10")
    assert repr(number) in str(refusal.value)
