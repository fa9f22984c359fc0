"""We test that what a Docker engine prints becomes images and the chains that it has."""

from __future__ import annotations

from meshstrap.bundle.plan import chain_ids
from meshstrap.facts.docker import parse

ID, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
BASE, TOP = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"

# As printed by the fact's script on Docker 20.10.24.
SAID = f"""\
#installed yes
#version 20.10.24+dfsg1
#root /var/lib/docker
#status [["Backing Filesystem","extfs"],["Supports d_type","true"],["Native Overlay Diff","true"]]
#images
{ID} ["exp/b:1","exp/b:2"] ["{BASE}","{TOP}"]
{OTHER} [] ["{BASE}"]
#containers
{ID}
#ours
{OTHER}
"""


def test_an_image_has_all_its_names_and_its_id_where_it_has_none() -> None:
    runtime = parse(SAID.splitlines(), "/run/cri-dockerd.sock")
    assert set(runtime["images"]) == {"exp/b:1", "exp/b:2", OTHER}
    assert runtime["images"]["exp/b:1"]["config"] == ID
    assert {name: (each["used"], each["ours"]) for name, each in runtime["images"].items()} == {
        "exp/b:1": (True, False),
        "exp/b:2": (True, False),
        OTHER: (False, True),
    }


def test_its_layers_are_known_by_their_chains_and_nothing_can_be_pinned() -> None:
    runtime = parse(SAID.splitlines(), "/run/cri-dockerd.sock")
    assert runtime["chains"] == chain_ids([BASE, TOP])
    assert (runtime["kind"], runtime["version"], runtime["pinnable"]) == ("docker", "20.10.24+dfsg1", False)


def test_with_containerds_image_store_an_id_is_the_manifests_and_no_layer_can_stay_at_home() -> None:
    status = '#status [["driver-type","io.containerd.snapshotter.v1"]]'
    runtime = parse([status if line.startswith("#status") else line for line in SAID.splitlines()], "/s")
    assert (runtime["images"]["exp/b:1"]["manifest"], runtime["images"]["exp/b:1"]["config"]) == (ID, "")
    assert runtime["chains"] == []


def test_an_engine_that_does_not_answer_has_no_version() -> None:
    assert parse(["#installed yes"], "/s")["version"] == ""
    assert not parse([], "/s")["installed"]
