"""We test that what could not start from the bundle alone is named, object and file, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.bundle import nearest
from meshstrap.bundle.check import Use, judge, uses
from meshstrap.bundle.lock import Image, Lock
from meshstrap.bundle.plan import UnknownImageError, find
from meshstrap.bundle.reference import normalize

DIGEST = f"sha256:{'0' * 64}"


def image(reference: str, platform: str = "linux/amd64") -> Image:
    return Image(normalize(reference), platform, DIGEST, DIGEST, (), 0, "-")


LOCK = Lock((image("a:1"), image("a:latest"), image("b:1"), image("b:1", "linux/arm64"), image(f"d@{DIGEST}")))


def deployment(**container: str) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", **container}]}}},
    }


@pytest.mark.parametrize(
    "container",
    [
        {"image": "a:1"},
        {"image": "docker.io/library/a:1", "imagePullPolicy": "IfNotPresent"},
        {"image": "a", "imagePullPolicy": "IfNotPresent"},
        {"image": "a:latest", "imagePullPolicy": "Never"},
        {"image": f"d@{DIGEST}"},
    ],
)
def test_what_starts_without_a_pull_is_no_fault(container: dict[str, str]) -> None:
    assert judge(LOCK, uses([deployment(**container)], "cart.yaml")) == []


@pytest.mark.parametrize(
    ("container", "faults"),
    [
        ({"image": "a:2"}, ["asks for image docker.io/library/a:2, which the bundle does not hold"]),
        ({"image": "quay.io/a:1"}, ["asks for image quay.io/a:1, which the bundle does not hold"]),
        ({"image": "a:1", "imagePullPolicy": "Always"}, ["has imagePullPolicy Always for docker.io/library/a:1"]),
        ({"image": "a"}, ["has no imagePullPolicy for docker.io/library/a:latest"]),
        ({"image": "a:latest"}, ["has no imagePullPolicy for docker.io/library/a:latest"]),
        (
            {"image": "x:latest"},
            ["docker.io/library/x:latest, which the bundle does not", "has no imagePullPolicy for"],
        ),
        ({"image": "Not A Name"}, ["'Not A Name' is not an image reference"]),
        ({"image": f"a:1@{DIGEST}"}, [f"a:1@{DIGEST}, which the bundle does not hold"]),
    ],
)
def test_what_would_be_pulled_is_named_with_its_object_and_file(container: dict[str, str], faults: list[str]) -> None:
    found = judge(LOCK, uses([deployment(**container)], "cart.yaml"))
    assert len(found) == len(faults)
    for text, fault in zip(found, faults, strict=True):
        assert text.startswith("Deployment/shop/cart in cart.yaml") and fault in text


def test_an_image_must_be_there_for_every_nodes_platform() -> None:
    both = ("linux/amd64", "linux/arm64")
    assert judge(LOCK, [Use("x", "b:1")], both) == []
    (fault,) = judge(LOCK, [Use("x", "a:1")], both)
    assert "holds for linux/amd64 only, not linux/arm64" in fault
    assert judge(LOCK, [Use("x", "a:1")]) == [], "any platform will do where none is known"


@pytest.mark.parametrize(
    "item",
    [
        {
            "kind": "Pod",
            "metadata": {"name": "p"},
            "spec": {"containers": [{"image": "a"}], "initContainers": [{"image": "b"}]},
        },
        {
            "kind": "Job",
            "metadata": {"name": "j"},
            "spec": {"template": {"spec": {"containers": [{"image": "a"}, {"image": "b"}]}}},
        },
        {
            "kind": "CronJob",
            "metadata": {"name": "c"},
            "spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "a"}, {"image": "b"}]}}}}},
        },
        {
            "kind": "StatefulSet",
            "metadata": {"name": "s"},
            "spec": {
                "template": {
                    "spec": {
                        "containers": [{"image": "a"}, {"name": "without"}],
                        "volumes": [{"name": "v", "image": {"reference": "b"}}, {"name": "w", "emptyDir": {}}],
                    }
                }
            },
        },
    ],
    ids=lambda item: str(item["kind"]),
)
def test_images_are_found_wherever_a_kind_has_its_pods(item: dict[str, Any]) -> None:
    assert [use.reference for use in uses([item], "x.yaml")] == ["a", "b"]


def test_an_image_volume_is_pulled_by_its_own_policy() -> None:
    volume = {"name": "v", "image": {"reference": "a:1", "pullPolicy": "Always"}}
    (fault,) = judge(LOCK, uses([{"kind": "Pod", "metadata": {"name": "p"}, "spec": {"volumes": [volume]}}], "p.yaml"))
    assert fault.startswith("Pod/p in p.yaml has imagePullPolicy Always for docker.io/library/a:1")


def test_what_only_looks_like_a_pod_asks_for_nothing() -> None:
    item = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"image": "r/none:1", "containers": "none"}}
    assert uses([item], "c.yaml") == []


def test_a_gateways_injected_image_is_the_injections_business() -> None:
    assert uses([deployment(image="auto")], "gateway.yaml") == []


def test_a_fault_that_several_containers_share_is_said_once() -> None:
    twice = deployment(image="a:2")
    containers = twice["spec"]["template"]["spec"]["containers"]
    containers.append(dict(containers[0]))
    assert len(judge(LOCK, uses([twice], "cart.yaml"))) == 1


def test_a_lock_is_what_it_is_judged_by() -> None:
    assert judge(replace(LOCK, images=()), [Use("x", "b:1")], ("linux/amd64",)) == [
        "x asks for image docker.io/library/b:1, which the bundle does not hold"
    ]


A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def held(reference: str, manifest: str) -> Image:
    return replace(image(reference), manifest=manifest, config=f"sha256:{'c' * 64}")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (f"x@{A}", "; it has that content by the name docker.io/library/x:1: ask for it by that name"),
        (f"x:9@{A}", "; it has that content by the name docker.io/library/x:1: ask for it by that name"),
        (f"x@{B}", f"; of docker.io/library/x it has :1 (linux/amd64, {A}), @{DIGEST} (linux/amd64, {DIGEST})"),
        ("x:2", f"; of docker.io/library/x it has :1 (linux/amd64), @{DIGEST} (linux/amd64)"),
        (f"y@{A}", ""),
    ],
)
def test_what_the_bundle_has_of_a_repository_is_said_where_it_has_not_what_is_asked_for(asked: str, said: str) -> None:
    lock = Lock((held("x:1", A), held(f"x@{DIGEST}", DIGEST)))
    full = normalize(asked)
    (fault,) = judge(lock, [Use("p", asked, "IfNotPresent")])
    assert fault == f"p asks for image {full}, which the bundle does not hold{said}"
    with pytest.raises(UnknownImageError) as raised:
        find(lock, {asked: "p"}, "linux/amd64")
    assert str(raised.value) == f"not in the bundle: {full} for linux/amd64{said} (used by p)"


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("1234567")), unique=True), st.sampled_from("ABxyz"))
def test_only_what_is_of_the_repository_is_said_and_never_a_long_list(tags: list[tuple[str, str]], name: str) -> None:
    lock = Lock(tuple(held(f"{repository}:{tag}", A) for repository, tag in tags))
    said = nearest.said(lock, f"{name.lower()}@{B}")
    of_it = [tag for repository, tag in tags if repository == name.lower()]
    assert bool(said) is bool(of_it)
    assert said.count(A) == min(len(of_it), 5)
    assert said.endswith(f" and {len(of_it) - 5} more") is (len(of_it) > 5)
