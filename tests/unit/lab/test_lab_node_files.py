"""We test what a node is given beside the common file system: its own keys and identity, readable by whom it must."""

from __future__ import annotations

import io
import stat
import tarfile
from dataclasses import replace

from meshstrap.lab.node_files import INIT, Identity, archive

ONE = Identity(
    lab="meshstrap-123456",
    name="control-1",
    address="172.29.7.10",
    host_key=b"PRIVATE\n",
    host_key_public=b"ssh-ed25519 AAAA control-1\n",
    authorized_key=b"ssh-ed25519 BBBB meshstrap-123456\n",
)


def unpacked(identity: Identity) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive(identity))) as tar:
        for entry in tar:
            if not entry.issym():
                content = tar.extractfile(entry)
                files[entry.name] = (entry, content.read() if content else b"")
    return files


def links(identity: Identity) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive(identity))) as tar:
        return {entry.name: entry.linkname for entry in tar if entry.issym()}


def test_the_same_node_gets_the_same_bytes() -> None:
    assert archive(ONE) == archive(ONE)


def test_private_things_are_private_and_everything_is_roots() -> None:
    files = unpacked(ONE)
    assert {name: stat.S_IMODE(files[name][0].mode) for name in files if "key" in name or name == "root/.ssh"} == {
        "root/.ssh": 0o700,
        "root/.ssh/authorized_keys": 0o600,
        "etc/ssh/ssh_host_ed25519_key": 0o600,
        "etc/ssh/ssh_host_ed25519_key.pub": 0o644,
    }
    assert {(entry.uid, entry.gid) for entry, _ in files.values()} == {(0, 0)}


def test_the_first_process_is_there_and_can_be_run() -> None:
    entry, content = unpacked(ONE)[INIT.lstrip("/")]
    assert entry.mode == 0o755
    assert content.startswith(b"#!/bin/sh\n")
    assert content.endswith(b"exec /sbin/init\n")


def test_every_link_to_a_unit_of_ours_leads_to_one() -> None:
    files = unpacked(ONE)
    targets = {target for target in links(ONE).values() if target != "/dev/null"}
    assert targets
    assert {target.lstrip("/") for target in targets} <= set(files)


def test_the_node_resolves_at_itself_and_at_no_loopback_address() -> None:
    assert unpacked(ONE)["etc/lab/resolv.conf"][1] == b"nameserver 172.29.7.10\n"


def test_two_nodes_and_two_labs_differ_in_machine_id_and_product_uuid() -> None:
    others = [ONE, replace(ONE, name="worker-1"), replace(ONE, lab="meshstrap-654321")]
    for name in ("etc/machine-id", "etc/lab/product_uuid"):
        assert len({unpacked(identity)[name][1] for identity in others}) == 3
    assert len(ONE.machine_id) == 32 and len(ONE.product_uuid) == 36
