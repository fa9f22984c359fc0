"""We test that a program is known by what is in it: by its platform, its main package and its version, and no name."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.programs import Recognised, recognise

from . import archives
from .conftest import Put

AMD64, ARM64 = 0x3E, 0xB7
ISTIOCTL = "istio.io/istio/istioctl/cmd/istioctl"
KUBEADM = "k8s.io/kubernetes/cmd/kubeadm"
CONTAINERD = "github.com/containerd/containerd/v2/cmd/containerd"
RUNC = "github.com/opencontainers/runc"
BRIDGE = "github.com/containernetworking/plugins/plugins/main/bridge"
BASE = 0x400000


def varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def elf(
    package: str,
    variables: tuple[str, ...] = (),
    *,
    machine: int = AMD64,
    settings: tuple[str, ...] = (),
    module: str = "(devel)",
    old: bool = False,
    moved: bool = False,
) -> bytes:
    """A 64-bit program as Go's linker lays it out: one segment of texts, one of variables, relocations beside them.

    Args:
        package: the path of its main package.
        variables: values of string variables.
        machine: ELF's number of the processor.
        settings: what Go was told, `key=value`.
        module: the main module's version.
        old: as Go wrote its build information before 1.18, by pointers.
        moved: position-independent: the variables' pointers stand in relocations.
    """
    information = (
        bytes(16)
        + "\n".join([f"path\t{package}", f"mod\tm\t{module}", *(f"build\t{each}" for each in settings), ""]).encode()
        + bytes(16)
    )
    texts, start = b"", 64 + 2 * 56
    places = []
    for text in ("go1.20", *variables):
        # Texts follow each other without an end between them.
        places.append((BASE + start + len(texts), len(text)))
        texts += text.encode()
    if old:
        places.append((BASE + start + len(texts), len(information)))
        texts += information
    data_start = start + len(texts) + (-(start + len(texts)) % 16)
    address = 0x800000 + data_start
    header = b"\xff Go buildinf:" + bytes([8, 0 if old else 2])
    if old:
        data = header + struct.pack("<QQ", address + 32, address + 48)
        data += struct.pack("<QQ", *places[0]) + struct.pack("<QQ", *places[-1])
        variable_places = places[1:-1]
    else:
        data = header + bytes(16) + varint(6) + b"go1.20" + varint(len(information)) + information
        data += bytes(-len(data) % 16)
        variable_places = places[1:]
    relocations = b""
    for pointer, length in variable_places:
        if moved:
            kind = 8 if machine == AMD64 else 1027
            relocations += struct.pack("<QQq", address + len(data), kind, pointer)
            pointer = 0
        data += struct.pack("<QQ", pointer, length)
    end = data_start + len(data)
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, start + len(texts), start + len(texts), 4096)
    segments += struct.pack("<IIQQQQQQ", 1, 6, data_start, address, address, len(data), len(data), 4096)
    section = struct.pack("<IIQQQQIIQQ", 0, 4, 2, 0, end, len(relocations), 0, 0, 8, 24)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, end + len(relocations), 0, 64, 56, 2, 64, 1, 0)
    body = (head + segments + texts).ljust(data_start, b"\0") + data
    return body + relocations + section


def known(tmp_path: Path, content: bytes) -> Recognised | None:
    path = tmp_path / "download"
    path.write_bytes(content)
    return recognise(path)


@pytest.mark.parametrize("old", [False, True], ids=["go-1.18", "go-1.17"])
@pytest.mark.parametrize("moved", [False, True], ids=["fixed", "position-independent"])
@pytest.mark.parametrize(("machine", "platform"), [(AMD64, "linux/amd64"), (ARM64, "linux/arm64")])
@pytest.mark.parametrize(
    ("package", "variables", "name", "version"),
    [
        (ISTIOCTL, ("1.13.1", "1.13.1", "docker.io/istio", "1.0.0"), "istioctl", "1.13.1"),
        (KUBEADM, ("v1.34.10", "v1.34.10", "3.5.24"), "kubeadm", "v1.34.10"),
        ("k8s.io/kubernetes/cmd/kubelet", ("v1.23.17",), "kubelet", "v1.23.17"),
        (CONTAINERD, ("v2.4.2", "0.5.0", "0.8.0", "1.0.0", "0.3.1"), "containerd", "v2.4.2"),
        ("github.com/containerd/containerd/cmd/ctr", ("1.6.20~ds1", "1.6.20~ds1-1+deb12u3"), "ctr", "1.6.20~ds1"),
        (RUNC, ("1.3.0\n", "1.1.0"), "runc", "1.3.0"),
        (BRIDGE, ("v1.9.1", "0.4.0", "1.1.0"), "bridge", "v1.9.1"),
    ],
)
def test_programs_of_the_releases(
    tmp_path: Path,
    package: str,
    variables: tuple[str, ...],
    name: str,
    version: str,
    machine: int,
    platform: str,
    moved: bool,
    old: bool,
) -> None:
    content = elf(package, variables, machine=machine, moved=moved, old=old)
    assert known(tmp_path, content) == Recognised(name, platform, (version,))


def test_what_the_linker_was_told_counts_most(tmp_path: Path) -> None:
    told = "-s -w -X 'k8s.io/client-go/pkg/version.gitMajor=1' -X k8s.io/component-base/version.gitVersion=v1.20.2"
    flags = f'-ldflags="{told}"'
    content = elf(KUBEADM, ("v9.9.9",), settings=(flags, "GOOS=linux"))
    assert known(tmp_path, content) == Recognised("kubeadm", "linux/amd64", ("v1.20.2",))


def test_the_modules_version_counts_where_nothing_else_is_told(tmp_path: Path) -> None:
    assert known(tmp_path, elf(RUNC, module="v1.4.0")) == Recognised("runc", "linux/amd64", ("v1.4.0",))
    assert known(tmp_path, elf(RUNC, module="v1.4.1-0.20260101000000-abcdef123456")) == Recognised(
        "runc", "linux/amd64", ()
    )


def test_a_version_in_doubt_is_none(tmp_path: Path) -> None:
    content = elf(ISTIOCTL, ("1.13.1", "1.14.0"))
    assert known(tmp_path, content) == Recognised("istioctl", "linux/amd64", ("1.13.1", "1.14.0"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        elf("example.com/mine"),
        elf(KUBEADM, ("v1.34.10",), settings=("GOOS=freebsd",)),
        elf(KUBEADM, ("v1.34.10",), machine=999),
        elf("github.com/containerd/containerd/cmd/containerd-stress", ("v2.4.2",)),
    ],
)
def test_what_goes_onto_no_node_is_none(tmp_path: Path, content: bytes) -> None:
    assert known(tmp_path, content) is None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.booleans(), at=st.integers(0, 700), change=st.binary(min_size=1, max_size=16), cut=st.integers(1, 900))
def test_a_broken_program_makes_no_traceback(tmp_path: Path, old: bool, at: int, change: bytes, cut: int) -> None:
    content = bytearray(elf(KUBEADM, ("v1.34.10",), moved=True, old=old))
    content[at : at + len(change)] = change
    known(tmp_path, bytes(content[:cut]) if cut < 500 else bytes(content))


def test_a_release_archive_gives_the_programs_in_it(tmp_path: Path, bundle: Bundle, put: Put, said: list[str]) -> None:
    members = {
        "istio-1.13.1/README.md": b"# Istio",
        "istio-1.13.1/samples/bookinfo/platform/kube/bookinfo.yaml": b"kind: Service",
        "istio-1.13.1/bin/istioctl": elf(ISTIOCTL, ("1.13.1", "1.13.1")),
        "istio-1.13.1/manifest.yaml": b"version: 1.13.1",
    }
    path = archives.write(tmp_path / "kubectl-1.99.tar.gz", members, "gzip")
    assert put(path) == []
    (program,) = bundle.read().programs
    assert (program.name, program.version, program.platform) == ("istioctl", "1.13.1", "linux/amd64")
    assert program.archive and program.source == "release archive kubectl-1.99.tar.gz"
    assert bundle.store.blob(program.sha256).read_bytes() == members["istio-1.13.1/bin/istioctl"]
    assert bundle.store.verify(bundle.read()) == []
    lock = bundle.read()
    assert put(path) == []
    assert bundle.read() == lock


def test_a_program_by_itself_is_added_whatever_it_is_called(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = tmp_path / "runc.arm64 (1)"
    path.write_bytes(elf(RUNC, ("1.3.0",), machine=ARM64))
    assert put(path) == []
    assert [(each.name, each.platform) for each in bundle.read().programs] == [("runc", "linux/arm64")]


def test_another_version_is_refused_until_it_is_to_replace_the_first(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(elf(KUBEADM, ("v1.33.1",)))
    new.write_bytes(elf(KUBEADM, ("v1.34.1",)))
    assert put(old) == []
    (failure,) = put(new)
    assert "kubeadm (linux/amd64) is in the bundle with other content: v1.33.1" in failure and "--replace" in failure
    assert put(new, replace=True) == []
    assert [each.version for each in bundle.read().programs] == ["v1.34.1"]
    assert len(list((bundle.directory / "store" / "blobs" / "sha256").iterdir())) == 1


def test_a_version_that_a_program_does_not_tell_is_given(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = tmp_path / "bridge"
    path.write_bytes(elf(BRIDGE))
    (failure,) = put(path)
    assert str(path) in failure and "give --version" in failure
    assert put(path, version="v1.1.1") == []
    assert bundle.read().programs[0].version == "v1.1.1"


def test_a_program_for_another_system_is_none(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = archives.write(tmp_path / "istio-osx.tar.gz", {"bin/istioctl": b"\xcf\xfa\xed\xfe" + bytes(100)}, "gzip")
    (failure,) = put(path)
    assert "holds neither images nor programs that go onto nodes" in failure


def test_only_wanted_platforms_of_programs_are_taken(tmp_path: Path, put: Put) -> None:
    path = tmp_path / "runc"
    path.write_bytes(elf(RUNC, ("1.3.0",), machine=ARM64))
    assert put(path, platforms=("linux/amd64",)) == [f"{path}: has linux/arm64 only, not linux/amd64"]
