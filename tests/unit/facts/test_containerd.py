"""We test that containerd's tables become images, and that it is known where it can pin them."""

from __future__ import annotations

import pytest

from meshstrap.facts.containerd import Images, parse, parse_altered, parse_whole, pinnable

ONE = "sha256:310548f03ffdaf6fee2084f9a50b7ffc5eccffb4cc6b3509513d189fde9addf4"
CONFIG = "sha256:62f2e4ea646e478fa3343869265becc161151514479cb63343c8f0adaf387bab"
LAYER = "sha256:78218dd1db6f08df6386516caca7f413b3dca3d3da09cacacdc60802bc5f0a0e"
BASE = "sha256:a85367f9f725bf220051dc8d3312f3f591c5a3728b3d3a1bfc59363d093837c7"
TOP = "sha256:b1b227580375ab0f585eda22c9c0603b706cfc09231aedf00b92ff02f69605ed"
POD = "5f2a9d0a8e7c"

# As printed by the fact's script on containerd 1.6.20, with a container, a claim and images made half by hand.
SAID = f"""\
#installed yes
#version 1.6.20~ds1
#root /var/lib/containerd
#discard_unpacked_layers false
#images
docker.io/exp/b:1 {ONE} io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned,meshstrap.dev/brought=yes
docker.io/exp/b:mine {ONE} -
docker.io/exp/half:1 {BASE} -
docker.io/exp/packed:1 {TOP} -
{CONFIG} {ONE} io.cri-containerd.image=managed
#check
docker.io/exp/b:1 complete true
docker.io/exp/b:mine complete true
docker.io/exp/half:1 incomplete true
docker.io/exp/packed:1 complete false
{CONFIG} complete true
#content
{ONE} meshstrap.dev/brought=yes containerd.io/gc.ref.content.config={CONFIG}
{CONFIG} containerd.io/gc.ref.snapshot.overlayfs={TOP}
{LAYER} meshstrap.dev/claimed=yes
#snapshots
Active {POD} {BASE}
Active meshstrap-claim-{TOP} {TOP}
Committed {BASE}
Committed {TOP} {BASE}
#containers
docker.io/exp/half:1
"""


def test_the_cheap_answer_has_the_names_and_what_is_stored() -> None:
    said = SAID.partition("#content")
    whole = parse_whole(f"#named\ndocker.io/exp/b:1\n#content{said[2]}".splitlines())
    assert whole == {
        "names": ["docker.io/exp/b:1"],
        "blobs": [ONE, CONFIG, LAYER],
        "chains": [BASE, TOP],
        "claims": [LAYER, f"meshstrap-claim-{TOP}"],
    }
    assert parse_whole([]) == {"names": [], "blobs": [], "chains": [], "claims": []}


def test_an_image_is_what_its_tables_say() -> None:
    images = parse(SAID.splitlines(), "/s")["images"]
    assert images["docker.io/exp/b:1"] == {
        "manifest": ONE,
        "config": CONFIG,
        "complete": True,
        "unpacked": True,
        "pinned": True,
        "ours": True,
        "used": False,
    }
    assert (images["docker.io/exp/half:1"]["complete"], images["docker.io/exp/half:1"]["unpacked"]) == (False, True)
    assert (images["docker.io/exp/packed:1"]["complete"], images["docker.io/exp/packed:1"]["unpacked"]) == (True, False)


def test_a_name_is_ours_by_its_own_mark_and_an_image_ids_record_by_its_manifests() -> None:
    images = parse(SAID.splitlines(), "/s")["images"]
    assert {name: image["ours"] for name, image in images.items() if image["manifest"] == ONE} == {
        "docker.io/exp/b:1": True,
        "docker.io/exp/b:mine": False,
        CONFIG: True,
    }


def test_an_image_is_used_by_a_containers_name_for_it_or_by_its_snapshot() -> None:
    assert parse(SAID.splitlines(), "/s")["images"]["docker.io/exp/half:1"]["used"]
    running = parse(SAID.replace(f"Active {POD} {BASE}", f"Active {POD} {TOP}").splitlines(), "/s")["images"]
    assert running["docker.io/exp/b:1"]["used"] and running[CONFIG]["used"]


def test_blobs_snapshots_and_what_a_dead_run_claimed_are_listed() -> None:
    runtime = parse(SAID.splitlines(), "/s")
    assert runtime["blobs"] == [ONE, CONFIG, LAYER]
    assert runtime["chains"] == [BASE, TOP]
    assert runtime["claims"] == [LAYER, f"meshstrap-claim-{TOP}"]
    assert (runtime["version"], runtime["installed"], runtime["discards"]) == ("1.6.20~ds1", True, False)
    assert parse([*SAID.splitlines(), "#discard_unpacked_layers true"], "/s")["discards"]


def test_people_are_shown_names_and_not_records_of_ids() -> None:
    assert CONFIG not in Images().process(SAID.splitlines())


@pytest.mark.parametrize(("said", "installed"), [([], False), (["#installed yes"], True)])
def test_without_an_answer_there_are_no_images(said: list[str], installed: bool) -> None:
    runtime = parse(said, "/s")
    assert (runtime["images"], runtime["version"], runtime["installed"]) == ({}, "", installed)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.6.20~ds1", False),
        ("1.6.24", False),
        ("v1.6.25", True),
        ("1.7.9", False),
        ("v1.7.10+k3s1", True),
        ("v1.5.99", False),
        ("v2.0.0-rc.1", True),
        ("v2.4.2", True),
        ("v3.0.0", True),
        ("", False),
        ("unknown", False),
    ],
)
def test_the_label_pins_from_certain_releases_on(version: str, expected: bool) -> None:
    assert pinnable(version) is expected


def test_of_blobs_that_were_read_the_altered_ones_are_named() -> None:
    said = ["#bytes 1204811776", "#altered", "278fb9dbcca9518083ad1e11276933a2e96f23de604a3a08cc3c80002767d24c"]
    found = parse_altered(said)
    assert found == {"blobs": [f"sha256:{said[2]}"], "bytes": 1204811776, "read": True}
    assert parse_altered(said[:2])["blobs"] == []
    assert parse_altered([]) == {"blobs": [], "bytes": 0, "read": False}, "no store is no proof"
