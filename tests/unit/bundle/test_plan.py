"""The plan: what a node lacks, which layers must travel, and whether they fit."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.bundle.lock import Image, Layer, Lock
from meshstrap.bundle.plan import (
    NodeImage,
    Plan,
    Runtime,
    UnknownImageError,
    Whole,
    batches,
    by_reference,
    chain_ids,
    find,
    nothing_missing,
    plan,
    quantity,
    size_of,
    state,
    unused,
    without,
)

PLATFORM = "linux/amd64"


def digest(text: object) -> str:
    return f"sha256:{hashlib.sha256(str(text).encode()).hexdigest()}"


def layer(name: str, size: int) -> Layer:
    return Layer(digest(name), digest(f"{name} unpacked"), size)


SHARED, OWN, TOP = layer("shared", 1000), layer("own", 500), layer("top", 30)


def image(name: str, *layers: Layer, platform: str = PLATFORM) -> Image:
    size = 40 + sum(each.size for each in layers)
    full = f"docker.io/library/{name}:1"
    mark = f"{name} {platform}"
    return Image(full, platform, digest(f"manifest {mark}"), digest(f"config {mark}"), layers, size, "-")


A = image("a", SHARED)
B = image("b", SHARED, OWN, TOP)


def there(of: Image, **changes: object) -> NodeImage:
    known: NodeImage = {
        "manifest": of.manifest,
        "config": of.config,
        "complete": True,
        "unpacked": True,
        "pinned": True,
        "ours": True,
        "used": False,
    }
    return {**known, **changes}  # type: ignore[typeddict-item]


def chains(of: Image) -> list[str]:
    return chain_ids(each.diff_id for each in of.layers)


def runtime(*images: Image, **changes: object) -> Runtime:
    known: Runtime = {
        "kind": "containerd",
        "endpoint": "/run/containerd/containerd.sock",
        "installed": True,
        "version": "v2.4.2",
        "images": {each.reference: there(each) for each in images},
        "blobs": [
            blob for each in images for blob in (each.manifest, each.config, *(one.digest for one in each.layers))
        ],
        "chains": [chain for each in images for chain in chains(each)],
        "claims": [],
        "pinnable": True,
        "discards": False,
        "disk": {"root": "/var/lib/containerd", "size": 100_000, "free": 90_000, "nodefs": True},
        "eviction": {"imagefs.available": "10%"},
    }
    return {**known, **changes}  # type: ignore[typeddict-item]


def make(node: Runtime, *images: Image) -> Plan:
    return plan(images or (A, B), node, lambda each: 3 * each.size)


def test_an_empty_node_gets_all_and_a_shared_layer_travels_once() -> None:
    result = make(runtime())
    assert [each.layers for each in result.send] == [(SHARED,), (OWN, TOP)]
    assert [each.state for each in result.send] == ["absent", "absent"]
    assert result.send[1].claims == (SHARED.digest,)
    assert result.size == 1000 + 500 + 30 + 2 * 40 == size_of([A, B])


def whole(**changes: object) -> Whole:
    node = runtime(A, B)
    known = {"names": [A.reference, B.reference], "blobs": node["blobs"], "chains": node["chains"], "claims": []}
    return {**known, **changes}  # type: ignore[typeddict-item]


def test_nothing_is_missing_where_every_name_blob_and_snapshot_is_there() -> None:
    assert nothing_missing([A, B], whole())
    assert nothing_missing([A], whole(names=[A.reference]))
    assert not nothing_missing([A, B], whole(names=[A.reference]))
    assert not nothing_missing([A, B], whole(claims=[SHARED.digest]))


@pytest.mark.parametrize("blob", [B.manifest, B.config, SHARED.digest, OWN.digest, TOP.digest])
def test_a_missing_blob_is_seen(blob: str) -> None:
    assert not nothing_missing([A, B], whole(blobs=[each for each in whole()["blobs"] if each != blob]))


@pytest.mark.parametrize("chain", chains(B))
def test_a_missing_snapshot_is_seen(chain: str) -> None:
    assert not nothing_missing([A, B], whole(chains=[each for each in whole()["chains"] if each != chain]))


def test_an_archive_leaves_out_what_an_earlier_one_brought() -> None:
    first, second = batches(make(runtime()).send, least=1)
    assert (first.images, first.omit, first.claims) == ((A,), frozenset(), ())
    assert second.images == (B,)
    assert second.omit == {SHARED.digest}
    assert second.claims == (SHARED.digest,)


def test_small_images_go_as_one_archive_that_counts_on_nothing_of_its_own() -> None:
    (only,) = batches(make(runtime()).send, least=2000)
    assert (only.images, only.omit, only.claims) == ((A, B), frozenset(), ())
    (on_docker,) = batches(make(runtime(kind="docker", blobs=[])).send, least=2000)
    assert (on_docker.images, on_docker.omit, on_docker.claims) == ((A, B), frozenset(), ())


def test_an_archive_is_full_once_it_has_its_bytes() -> None:
    images = [image(str(number), layer(str(number), 60)) for number in range(5)]
    sizes = [len(each.images) for each in batches(make(runtime(), *images).send, least=150)]
    assert sizes == [2, 2, 1]
    assert batches([]) == []


def test_a_node_that_has_the_base_gets_only_what_is_on_top() -> None:
    result = make(runtime(A))
    assert result.present == (A,)
    (only,) = result.send
    assert (only.image, only.layers, only.claims, only.size) == (B, (OWN, TOP), (SHARED.digest,), 40 + 530)


def test_a_node_that_has_all_gets_nothing() -> None:
    result = make(runtime(A, B))
    assert (result.send, result.present, result.size, result.need) == ((), (A, B), 0, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "present"),
        ({"manifest": digest("saved by docker")}, "present"),
        ({"config": ""}, "present"),
        ({"manifest": digest("other"), "config": digest("other")}, "other content"),
        ({"manifest": digest("other"), "config": ""}, "other content"),
        ({"complete": False}, "incomplete"),
        ({"unpacked": False}, "incomplete"),
    ],
)
def test_an_image_is_there_with_its_identity_and_all_that_a_container_needs(
    changes: dict[str, object], expected: str
) -> None:
    assert state(A, there(A, **changes), runtime(A)) == expected


def test_what_is_not_there_is_absent_under_another_tag_too() -> None:
    node = runtime(images={"docker.io/library/a:2": there(A)})
    assert make(node, A).send[0].state == "absent"
    assert make(node, A).send[0].layers == (SHARED,)


def test_docker_may_say_names_in_short_or_names_that_are_none() -> None:
    node = runtime(A, kind="docker", images={"a:1": there(A), "not a reference!": there(B), A.config: there(A)})
    assert make(node, A).present == (A,)
    assert set(by_reference(node)) == {A.reference, "not a reference!"}


def test_a_short_name_in_containerd_is_one_that_the_kubelet_does_not_find() -> None:
    assert make(runtime(A, images={"a:1": there(A)}), A).send[0].state == "absent"


def test_of_a_half_image_only_the_lost_layer_travels() -> None:
    node = runtime(B, images={B.reference: there(B, complete=False)})
    node["blobs"].remove(OWN.digest)
    (only,) = make(node, B).send
    assert (only.state, only.layers) == ("incomplete", (OWN,))
    assert only.claims == (SHARED.digest, TOP.digest)


def test_a_node_that_discards_layers_is_asked_by_its_snapshots() -> None:
    node = runtime(A, discards=True, blobs=[A.manifest, A.config], images={A.reference: there(A, complete=False)})
    result = make(node)
    assert result.present == (A,)
    assert (result.send[0].layers, result.send[0].claims) == ((OWN, TOP), (f"chain:{chains(A)[0]}",))


def test_a_node_that_keeps_layers_is_not_content_with_snapshots() -> None:
    node = runtime(A, blobs=[A.manifest, A.config], images={A.reference: there(A, complete=False)})
    assert make(node, A).send[0].layers == (SHARED,)


def test_a_snapshot_counts_only_on_top_of_those_below_it() -> None:
    node = runtime(discards=True, chains=[chains(B)[1]])
    assert make(node, B).send[0].layers == (SHARED, OWN, TOP)


def test_docker_is_asked_by_chains_and_by_the_config() -> None:
    node = runtime(A, kind="docker", blobs=[], images={"a:1": there(A, manifest="", pinned=False)}, pinnable=False)
    result = make(node)
    assert (result.present, result.unpinned) == ((A,), ())
    assert (result.send[0].layers, result.send[0].claims) == ((OWN, TOP), (f"chain:{chains(A)[0]}",))


@pytest.mark.parametrize("pinnable", [True, False])
def test_what_is_not_pinned_is_pinned_though_this_containerd_may_not_heed_it_yet(pinnable: bool) -> None:
    images = {A.reference: there(A, pinned=False), B.reference: there(B)}
    assert make(runtime(A, B, images=images, pinnable=pinnable)).unpinned == (A,)


def test_the_need_is_blobs_and_what_they_unpack_to_and_counts_a_shared_layer_once() -> None:
    assert make(runtime()).need == 1610 + int(3 * 1530 * 1.05)
    assert make(runtime(A)).need == 570 + int(3 * 530 * 1.05)


def test_docker_keeps_no_blobs_but_unpacks_one_archive_at_a_time() -> None:
    assert make(runtime(kind="docker", blobs=[])).need == 1040 + int(3 * 1530 * 1.05)


@pytest.mark.parametrize(
    ("free", "eviction", "missing"),
    [
        (20_000, {"imagefs.available": "10%"}, 0),
        (15_000, {"imagefs.available": "10%"}, 6429 + 10_000 - 15_000),
        (15_000, {"imagefs.available": "0%"}, 0),
        (15_000, {"imagefs.available": "0%", "nodefs.available": "12k"}, 6429 + 12_000 - 15_000),
        (15_000, {}, 6429 + 15_000 - 15_000),
        (15_000, None, 0),
    ],
    ids=["fits", "evicts", "no threshold", "nodefs", "the kubelet's default", "what the kubelet will get"],
)
def test_what_would_leave_the_kubelet_too_little_does_not_fit(
    free: int, eviction: dict[str, str] | None, missing: int
) -> None:
    disk = {"root": "/var/lib/containerd", "size": 100_000, "free": free, "nodefs": True}
    node = runtime(disk=disk, eviction=eviction)
    declared = {"evictionHard": {"imagefs.available": "2%"}}
    assert plan((A, B), node, lambda each: 3 * each.size, declared).missing == missing


def test_where_nothing_is_to_be_sent_a_full_disk_is_nobodys_concern() -> None:
    disk = {"root": "/var/lib/containerd", "size": 100_000, "free": 0, "nodefs": True}
    assert make(runtime(A, B, disk=disk)).missing == 0


@given(st.integers(0, 10**15), st.sampled_from(["", "k", "M", "G", "Ki", "Mi", "Gi", "Ti"]))
def test_quantities_are_kubernetes_own(number: int, unit: str) -> None:
    factor = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]
    assert quantity(f"{number}{unit}", 1) == pytest.approx(number * factor)


def test_a_percentage_is_of_the_whole_and_what_is_no_threshold_is_none() -> None:
    assert quantity("15%", 1000) == 150
    assert quantity("'2.5%'", 1000) == 25
    assert quantity("x%", 1000) == quantity("lots", 1000) == 0


def test_a_chain_is_the_digest_of_all_below() -> None:
    one, two = digest(1), digest(2)
    assert chain_ids([one, two]) == [one, f"sha256:{hashlib.sha256(f'{one} {two}'.encode()).hexdigest()}"]
    assert chain_ids([]) == []


def test_unknown_images_are_all_named_with_their_place() -> None:
    references = {"a:1": "x.yaml", "nosuch:2": "Deployment/web in web.yaml", "other": "y.yaml"}
    with pytest.raises(UnknownImageError) as error:
        find(Lock((A, B)), references, PLATFORM)
    assert "docker.io/library/nosuch:2 for linux/amd64 (used by Deployment/web in web.yaml)" in str(error.value)
    assert "docker.io/library/other:latest" in str(error.value)
    assert "library/a:1" not in str(error.value)


def test_an_image_for_another_platform_is_unknown_and_said_so() -> None:
    with pytest.raises(UnknownImageError, match="which the bundle has for linux/amd64 only"):
        find(Lock((A, B)), {"a:1": "x.yaml"}, "linux/arm64")


def test_each_platform_of_a_mixed_site_gets_its_own_image() -> None:
    arm = image("a", layer("arm", 700), platform="linux/arm64")
    lock = Lock((A, arm))
    assert find(lock, {"a:1": "x"}, "linux/arm64") == [arm]
    assert find(lock, {"a:1": "x"}, "linux/amd64") == [A]
    # Loaded for the wrong platform, it is other content.
    assert make(runtime(A), arm).send[0].state == "other content"


def test_unused_is_what_we_brought_and_neither_wanted_nor_used_nor_named_by_a_pod() -> None:
    names = ["old", "theirs", "running", "named", "wanted"]
    known = {name: image(name, layer(name, 10)) for name in names}
    images = {known[name].reference: there(known[name]) for name in names}
    images[known["theirs"].reference]["ours"] = False
    images[known["running"].reference]["used"] = True
    node = runtime(images=images)
    assert unused(node, [known["wanted"]], ["named:1"]) == [known["old"].reference]


def test_the_record_of_an_images_id_goes_with_its_last_name() -> None:
    old = image("old", SHARED)
    record = {old.config: there(old)}
    assert unused(runtime(images={**record, old.reference: there(old)}), [], []) == [old.reference, old.config]
    assert unused(runtime(images=record), [], []) == [old.config]
    assert unused(runtime(images={**record, "mine:1": there(old, ours=False)}), [], []) == []
    assert unused(runtime(images={old.config: there(old, used=True)}), [], []) == []
    assert unused(runtime(images={old.config: there(old, ours=False)}), [], []) == []


@given(st.sets(st.sampled_from([SHARED, OWN, TOP])))
def test_altered_layers_travel_and_no_others(altered: set[Layer]) -> None:
    said = without([A, B], runtime(A, B), {each.digest for each in altered})
    planned = plan([A, B], said, lambda each: each.size)
    assert {each for shipment in planned.send for each in shipment.layers} == altered
    assert [each.reference for each in planned.present] == [
        each.reference for each in (A, B) if altered.isdisjoint(each.layers)
    ]
