"""Which refusals of a Pod end the wait: those that stand however long one waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.kube.refusals import final, may_pass

QUOTA = 'pods "web-x" is forbidden: exceeded quota: few, requested: {}, used: pods=3, limited: {}'


@pytest.mark.parametrize(
    ("message", "stands", "bounded"),
    [
        ('pods "x" is forbidden: error looking up service account a/default: serviceaccount "default" not found', 0, 0),
        ('pods "x" is forbidden: status unknown for quota: few, resources: pods', 0, 0),
        ('pods "x" is forbidden: not yet ready to handle request', 0, 0),
        ('failed calling webhook "injector": connection refused', 0, 0),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false', 1, 1),
        ('pods "x" is forbidden: maximum cpu usage per Container is 1, but limit is 2', 1, 1),
        # Another Pod may go, a class may come.
        (QUOTA.format("pods=1", "pods=3"), 0, 1),
        ('pods "x" is forbidden: no PriorityClass with name high was found', 0, 1),
        # None of them makes room for what does not fit alone.
        (QUOTA.format("pods=4", "pods=3"), 1, 1),
        (QUOTA.format("limits.cpu=1500m,requests.memory=1Gi", "limits.cpu=2,requests.memory=512Mi"), 1, 1),
        (QUOTA.format("limits.cpu=1500m,requests.memory=1Gi", "limits.cpu=2,requests.memory=1024Mi"), 0, 1),
    ],
)
def test_only_what_cannot_pass_stands(message: str, stands: bool, bounded: bool) -> None:
    assert (final(message), may_pass(message)) == (stands, bounded)


@given(st.text(), st.text(), st.text())
def test_any_words_are_judged(words: str, requested: str, limited: str) -> None:
    for message in (words, QUOTA.format(requested, limited)):
        assert final(message) in (True, False) and may_pass(message) in (True, False)
