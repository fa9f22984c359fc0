"""References: one full form each, and the site's own names for them."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshstrap.bundle.reference import ReferenceError, normalize, override, parse

parts = st.from_regex(re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*", re.ASCII), fullmatch=True).filter(
    lambda part: len(part) < 30
)
tags = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=1).flatmap(
    lambda first: st.text(string.ascii_letters + string.digits + "_.-", max_size=30).map(lambda rest: first + rest)
)
domains = st.sampled_from(["docker.io", "registry.k8s.io", "localhost", "localhost:5000", "10.0.0.1:443", "a.b.c"])
paths = st.lists(parts, min_size=2, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.28", "docker.io/library/busybox:1.28"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("fortio/fortio:x", "docker.io/fortio/fortio:x"),
        ("xianchao/canary:v1", "docker.io/xianchao/canary:v1"),
        ("registry.k8s.io/pause:3.10.1", "registry.k8s.io/pause:3.10.1"),
        ("localhost/x", "localhost/x:latest"),
        ("host:5000/x", "host:5000/x:latest"),
        ("x:5000", "docker.io/library/x:5000"),
        ("a@sha256:" + "0" * 64, "docker.io/library/a@sha256:" + "0" * 64),
        ("a:v@sha256:" + "0" * 64, "docker.io/library/a:v@sha256:" + "0" * 64),
    ],
)
def test_full_form(short: str, full: str) -> None:
    assert normalize(short) == full


@pytest.mark.parametrize(
    "wrong", ["", ":v1", "Fortio/fortio", "a b", "a/:v", "a:", "a:.x", "a@sha256:12", "a//b", "a:v1\n", "-a.b/c", "/a"]
)
def test_what_is_none_is_refused_and_quoted(wrong: str) -> None:
    with pytest.raises(ReferenceError, match=re.escape(repr(wrong))):
        normalize(wrong)


@settings(deadline=None)
@given(domains, paths, tags)
def test_a_full_form_stays_as_it_is(domain: str, path: str, tag: str) -> None:
    reference = f"{domain}/{path}:{tag}"
    assert normalize(reference) == reference
    parsed = parse(reference)
    assert (parsed.domain, parsed.path, parsed.tag, parsed.digest) == (domain, path, tag, "")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    try:
        full = normalize(text)
    except ReferenceError:
        return
    assert normalize(full) == full


def test_override_replaces_only_what_it_gives() -> None:
    images = [
        {"name": "fortio/fortio", "newTag": "1.66.5"},
        {"name": "xianchao/canary", "newName": "harbor.lab:8443/team/canary"},
        {"name": "docker.io/library/busybox", "newName": "busybox", "digest": "sha256:" + "a" * 64},
    ]
    assert override("docker.io/fortio/fortio:latest_release", images) == "docker.io/fortio/fortio:1.66.5"
    assert override("xianchao/canary:v2", images) == "harbor.lab:8443/team/canary:v2"
    assert override("busybox:1.28", images) == "docker.io/library/busybox@sha256:" + "a" * 64
    assert override("nginx", images) == "docker.io/library/nginx:latest"


@pytest.mark.parametrize("entry", [{}, {"name": 3}, {"name": "a", "newtag": "b"}, {"name": "a", "newTag": "not a tag"}])
def test_a_wrong_override_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ReferenceError):
        override("a", [entry])


@pytest.mark.parametrize("images", ["nginx", {"name": "nginx"}, ["nginx"], [None], 7])
def test_data_that_is_no_list_of_entries_is_refused(images: object) -> None:
    with pytest.raises(ReferenceError, match="data images: must be a list"):
        override("nginx", images)  # type: ignore[arg-type]
