"""The plan: what a node lacks, and how many bytes that is."""

import pytest

from meshstrap.bundle.lock import Image, Layer, Lock
from meshstrap.bundle.plan import NodeImage, UnknownImageError, plan, size_of

PLATFORM = "linux/amd64"
SHARED = Layer("sha256:" + "1" * 64, "sha256:" + "2" * 64, 1000)


def image(name: str, number: int, *layers: Layer) -> Image:
    size = 40 + sum(layer.size for layer in layers)
    mark = f"{number:064x}"
    return Image(f"docker.io/library/{name}:1", PLATFORM, f"sha256:{mark}", f"sha256:{mark[::-1]}", layers, size, "-")


A = image("a", 10, SHARED)
B = image("b", 11, SHARED, Layer("sha256:" + "3" * 64, "sha256:" + "4" * 64, 500))
LOCK = Lock((A, B))


def test_an_empty_node_gets_all_and_shared_bytes_count_once() -> None:
    result = plan(LOCK, {"b:1": "x.yaml", "a:1": "x.yaml"}, PLATFORM, {})
    assert result.send == (A, B) and result.present == ()
    assert result.size == 1000 + 500 + 2 * 40 == size_of([A, B])


def test_only_the_locked_and_complete_image_is_present() -> None:
    references = {"a:1": "x.yaml"}
    assert plan(LOCK, references, PLATFORM, {A.reference: NodeImage(A.manifest, True)}).present == (A,)
    for on_node in (NodeImage(A.manifest, False), NodeImage(B.manifest, True)):
        result = plan(LOCK, references, PLATFORM, {A.reference: on_node})
        assert result.send == (A,) and result.size == A.size


def test_another_tag_of_the_same_image_is_not_the_reference() -> None:
    result = plan(LOCK, {"a:1": "x.yaml"}, PLATFORM, {"docker.io/library/a:2": NodeImage(A.manifest, True)})
    assert result.send == (A,)


def test_the_node_may_say_names_in_short() -> None:
    assert plan(LOCK, {"a:1": "x.yaml"}, PLATFORM, {"a:1": NodeImage(A.manifest, True)}).size == 0


def test_unknown_images_are_all_named_with_their_place() -> None:
    references = {"a:1": "x.yaml", "nosuch:2": "Deployment/web in web.yaml", "other": "y.yaml"}
    with pytest.raises(UnknownImageError) as error:
        plan(LOCK, references, PLATFORM, {})
    assert "docker.io/library/nosuch:2 for linux/amd64 (used by Deployment/web in web.yaml)" in str(error.value)
    assert "docker.io/library/other:latest" in str(error.value)
    assert "library/a:1" not in str(error.value)


def test_an_image_for_another_platform_is_unknown_and_said_so() -> None:
    with pytest.raises(UnknownImageError, match="which the bundle has for linux/amd64 only"):
        plan(LOCK, {"a:1": "x.yaml"}, "linux/arm64", {})
