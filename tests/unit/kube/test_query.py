"""We test that lists are taken apart and expressions judged, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.kube import query
from meshstrap.kube.errors import KubeError

OBJECTS = st.lists(st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"name": st.text(min_size=1)})}))


@given(objects=OBJECTS)
def test_each_object_of_a_list_gets_what_the_list_says_once(objects: list[dict[str, Any]]) -> None:
    answer = {"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": "x"}, "items": objects}
    found = query.items(answer, kind="Pod", apiVersion="v1")
    assert found == [{"kind": "Pod", "apiVersion": "v1", **each} for each in objects]


def test_objects_that_name_their_kind_keep_it() -> None:
    objects = [{"kind": "Node", "apiVersion": "v1"}, {"kind": "Service", "apiVersion": "v1"}]
    assert query.items({"kind": "List", "items": objects}, kind="Pod") == objects


@pytest.mark.parametrize("kind", ["Pod", "IPAllowList"])
def test_one_object_is_a_list_of_one(kind: str) -> None:
    assert query.items({"kind": kind, "metadata": {"name": "a"}}) == [{"kind": kind, "metadata": {"name": "a"}}]


@pytest.mark.parametrize(
    "expression",
    ["[]", "[0:2]", "[::-1].metadata.name", "length(@)", "[].{name: metadata.name}", "sort_by(@, &metadata.name)[0]"],
)
def test_a_good_expression_is_accepted(expression: str) -> None:
    query.check(expression)


@pytest.mark.parametrize("expression", ["[?", "", "nobody(@)", "[].{a: max(nobody(@))}", "[?a == nobody(b)] | [0]"])
def test_an_expression_that_never_works_is_refused_by_name(expression: str) -> None:
    with pytest.raises(KubeError) as refused:
        query.check(expression)
    assert repr(expression) in str(refused.value)
