"""We test what is said of a plan before anything moves, and that a bundle's lacking files are all named then."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshstrap.bundle.lock import Image, Layer
from meshstrap.bundle.plan import Plan, Runtime, Shipment
from meshstrap.bundle.store import Store, StoreError
from meshstrap.operations.runtime import check_files, table

LAYERS = (Layer("sha256:" + "1" * 64, "sha256:" + "2" * 64, 3), Layer("sha256:" + "5" * 64, "sha256:" + "6" * 64, 4))
IMAGE = Image("r/a:1", "linux/amd64", "sha256:" + "3" * 64, "sha256:" + "4" * 64, LAYERS, 2_000_007, "-")
DISK = {"root": "/var/lib/containerd", "size": 100_000_000, "free": 90_000_000, "nodefs": True}
NODE: Runtime = {"disk": DISK, "claims": [], "version": "v2.4.2", "pinnable": True}  # type: ignore[typeddict-item]


def test_missing_and_altered_files_are_all_named_before_anything_is_sent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shipment = Shipment(IMAGE, "absent", LAYERS[:1], (LAYERS[1].digest,))
    with pytest.raises(StoreError) as error:
        check_files(store, [shipment])
    assert str(error.value).count(": missing") == 3
    for digest in (IMAGE.manifest, IMAGE.config, LAYERS[0].digest):
        path = store.blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"four")
    with pytest.raises(StoreError, match="altered: has 4 bytes instead of 3"):
        check_files(store, [shipment])
    store.blob(LAYERS[0].digest).write_bytes(b"abc")
    # What stays at home need not be there.
    check_files(store, [shipment])


def test_the_table_says_what_moves_why_and_whether_it_fits() -> None:
    shipment = Shipment(IMAGE, "incomplete", LAYERS[:1], (LAYERS[1].digest,))
    todo = Plan(send=(shipment,), present=(), unpinned=(), need=7_000_000, missing=0, reserve=15_000_000)
    assert table(todo, NODE) == [
        "1 images to send (2.0 MB, 1 layers), 0 are there",
        "disk /var/lib/containerd: they take about 7.0 MB of the 90.0 MB that are free; 15.0 MB must stay so for the"
        " kubelet",
        "incomplete    r/a:1     2.0 MB of 2.0 MB",
    ]


def test_the_table_says_where_the_kubelet_may_take_what_is_sent() -> None:
    todo = Plan(send=(Shipment(IMAGE, "absent", LAYERS, ()),), present=(), unpinned=(), need=0, missing=0, reserve=0)
    old: Runtime = {**NODE, "kind": "containerd", "version": "1.6.20", "pinnable": False}
    assert table(todo, old)[0].endswith(
        "0 are there; containerd 1.6.20 cannot pin them: what the kubelet's garbage collection takes, the next run"
        " brings back"
    )
    # Where no runtime answers yet nothing is known of it.
    assert table(todo, {**old, "version": ""})[0].endswith("0 are there")


def test_the_table_names_what_is_pinned_removed_and_released() -> None:
    todo = Plan(send=(), present=(IMAGE,), unpinned=(IMAGE,), need=0, missing=0, reserve=0)
    assert table(todo, {**NODE, "claims": ["sha256:1"]}, ["r/old:1"]) == [
        "not pinned    r/a:1",
        "unused        r/old:1, to be removed",
        "1 blobs are still protected by a run that died: to be released",
    ]
