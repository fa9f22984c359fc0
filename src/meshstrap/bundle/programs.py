r"""Which program a file is, by what is in it.

The platform is in the ELF header, the name in Go's build information, the version in what was linked in. A file's own
name says nothing.

Sources: Go's debug/buildinfo (the layout of `\\xff Go buildinf:`), cmd/link (-X makes a string variable), the ELF
specification.
"""

from __future__ import annotations

import mmap
import platform
import re
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshstrap.bundle.errors import quoted
from meshstrap.bundle.lock import Program
from meshstrap.bundle.platforms import normalize

ELF_MAGIC = b"\x7fELF"

_ARCHITECTURES = {
    0x03: "386",
    0x28: "arm",
    0x3E: "amd64",
    0xB7: "arm64",
    0xF3: "riscv64",
    0x15: "ppc64le",
    0x16: "s390x",
}
_BUILD_INFO = b"\xff Go buildinf:"
_RELATIVE = {8, 1027}  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE
_LOAD, _RELA, _WRITABLE = 1, 4, 2
_MOST_INFORMATION = 1 << 20
_VERSION = re.compile(rb"v?[0-9]+\.[0-9]+\.[0-9]+(?:[-+~.][0-9A-Za-z.+~-]+)?\n?")
# Versions of the CNI specification, which stand in everything that speaks it. None of the programs is older than 1.
_CNI_SPECIFICATION = {"1.0.0", "1.1.0"}
_CNI = re.compile(r"github\.com/containernetworking/plugins/plugins/(?:main|meta|ipam)/([a-z-]+)")
_CONTAINERD = re.compile(r"github\.com/containerd/containerd(?:/v2)?/cmd/(containerd|ctr|containerd-shim-runc-v2)")
_KUBERNETES = re.compile(r"k8s\.io/kubernetes/cmd/(kube[a-z-]*)")


@dataclass(frozen=True)
class Recognised:
    """A program.

    Args:
        name: Its file name on a node.
        platform: `os/architecture`.
        versions: What its version may be; one where it is certain, none where the file says nothing.
    """

    name: str
    platform: str
    versions: tuple[str, ...]


def this_machine() -> str:
    """Name this machine's platform as a lock writes it, `os/architecture`."""
    return normalize(f"{sys.platform}/{platform.machine()}")


def recognise(path: Path) -> Recognised | None:
    """Say which program a file is.

    Args:
        path: The file.

    Returns:
        What it is; None where it is none that goes onto nodes.
    """
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # empty
            return None
        with content:
            try:
                return _recognise(_Elf(content))
            except (struct.error, IndexError, ValueError, OverflowError):
                return None  # no ELF, or one that is cut short


def contradictions(program: Program, path: Path) -> list[str]:
    """Compare what a lock says of a program with the program.

    Args:
        program: The lock's entry.
        path: The file that it is about.

    Returns:
        What differs, a phrase each. Of a file that is not recognised the size alone can be told, and a version only
        where the file tells one.
    """
    size = path.stat().st_size
    pairs = [("size", str(program.size), str(size))]
    if found := recognise(path):
        pairs += [("name", program.name, found.name), ("platform", program.platform, found.platform)]
        if len(found.versions) == 1:
            # Locks written by the lab have runc's, which says 1.3.0, as its release is called.
            pairs.append(("version", program.version.removeprefix("v"), found.versions[0].removeprefix("v")))
    return [
        f"its {what}: the lock says {quoted(said)}, and the file {is_!r}" for what, said, is_ in pairs if said != is_
    ]


def _recognise(elf: _Elf) -> Recognised | None:
    information = _build_information(elf)
    package = information.get("path", "")
    name = _name(package)
    architecture = _ARCHITECTURES.get(elf.machine)
    # Built for another system it is no ELF, but for the BSDs.
    if not name or not architecture or information.get("GOOS", "linux") != "linux":
        return None
    return Recognised(name, normalize(f"linux/{architecture}"), tuple(_versions(elf, package, information)))


def _name(package: str) -> str:
    """Give a program's name by the path of its main package; empty for none that goes onto nodes."""
    for pattern in (_KUBERNETES, _CONTAINERD, _CNI):
        if found := pattern.fullmatch(package):
            return found.group(1)
    return {"istio.io/istio/istioctl/cmd/istioctl": "istioctl", "github.com/opencontainers/runc": "runc"}.get(
        package, ""
    )


def _versions(elf: _Elf, package: str, information: Mapping[str, str]) -> Sequence[str]:
    """Say what the version may be: what the linker was told, else what stands in variables, else the module's."""
    prefixed = package.startswith("k8s.io/") or bool(_CNI.fullmatch(package))
    told = re.findall(
        r"-X[= ]'?[\w./-]*\.(?:gitVersion|buildVersion|[vV]ersion|BuildVersion)=([^\s'\"]+)",
        information.get("-ldflags", ""),
    )
    module = information.get("version", "")
    return (
        _likely(Counter(value for value in told if _VERSION.fullmatch(value.encode())), prefixed)
        or _likely(Counter(elf.strings(_VERSION)), prefixed)
        or ([module] if re.fullmatch(r"v[0-9]+\.[0-9]+\.[0-9]+(-(alpha|beta|rc)[0-9.]*)?", module) else [])
    )


def _likely(candidates: Counter[str], prefixed: bool) -> list[str]:
    """Choose among the versions that stand in a program: its own is there more often, or in a longer form too."""
    known = {
        value: count
        for value, count in candidates.items()
        if value not in _CNI_SPECIFICATION
        and (value.startswith("v") or not prefixed)
        and not value.removeprefix("v").startswith("0.")
    }
    # Distributions give the version, and the version with their revision.
    shortest = [value for value in known if not any(value.startswith(other) for other in known if other != value)]
    counts = {value: sum(count for other, count in known.items() if other.startswith(value)) for value in shortest}
    most = max(counts.values(), default=0)
    return sorted(value for value, count in counts.items() if count == most)


def _build_information(elf: _Elf) -> dict[str, str]:
    """Read what Go says of how it built a program: the main package's path, its module's version, the settings."""
    start = elf.content.find(_BUILD_INFO)
    if start < 0:
        return {}
    pointer_size, flags = elf.content[start + 14], elf.content[start + 15]
    if flags & 2:  # from Go 1.18 on the texts follow
        _, after = _text(elf.content, start + 32)
        raw, _ = _text(elf.content, after)
    else:  # before, pointers to two string variables
        order = ">" if flags & 1 else "<"
        pointer = struct.Struct(order + ("Q" if pointer_size == 8 else "I"))
        header = pointer.unpack_from(elf.content, start + 16 + pointer_size)[0]
        where = elf.at(header, 2 * pointer_size)
        raw = elf.at(*(pointer.unpack_from(where, offset)[0] for offset in (0, pointer_size)))
    # Sixteen bytes of its own on both sides.
    lines = raw[16:-16].decode("utf-8", "replace").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        kind, *values = line.split("\t")
        if kind == "path" and values:
            found["path"] = values[0]
        elif kind == "mod" and len(values) > 1:
            found["version"] = values[1]
        elif kind == "build" and values:
            key, _, value = values[0].partition("=")
            found[key] = value
    return found


def _text(content: mmap.mmap, start: int) -> tuple[bytes, int]:
    """Read a text with its length before it, as a varint; gives it and where it ends."""
    length, shift = 0, 0
    while True:
        byte = content[start]
        start += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > _MOST_INFORMATION:
        raise ValueError("no text is that long")
    return content[start : start + length], start + length


class _Elf:
    """A program's file, as the loader sees it."""

    def __init__(self, content: mmap.mmap) -> None:
        if content[:4] != ELF_MAGIC:
            raise ValueError("no ELF")
        self.content = content
        wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
        self._order = order
        self.machine = struct.unpack_from(order + "H", content, 18)[0]
        # Go's string variables are looked for in 64-bit little-endian programs; others are what their ldflags say.
        self._usual = wide and order == "<"
        self._segments: list[tuple[int, int, int, int]] = []
        self._sections: list[tuple[int, int, int]] = []
        if self._usual:
            programs, sections = struct.unpack_from("<QQ", content, 32)
            size, count, section_size, section_count = struct.unpack_from("<HHHH", content, 54)
            for index in range(count):
                kind, flags, offset, address, _, length = struct.unpack_from(
                    "<IIQQQQ", content, programs + index * size
                )
                if kind == _LOAD:
                    self._segments.append((address, offset, length, flags))
            for index in range(section_count):
                _, kind, _, _, offset, length = struct.unpack_from("<IIQQQQ", content, sections + index * section_size)
                self._sections.append((kind, offset, length))

    def at(self, address: int, length: int) -> bytes:
        """Give what is loaded at an address; nothing where nothing is."""
        for start, offset, size, _ in self._segments:
            if start <= address and address + length <= start + size:
                where = offset + address - start
                return self.content[where : where + length]
        return b""

    def strings(self, pattern: re.Pattern[bytes]) -> Iterator[str]:
        """Give the values of string variables that are wholly of a form, as often as they stand there.

        A string variable is a pointer and a length in a writable segment. Texts themselves lie in the file without an
        end between them.
        """
        moved = self._relocations()
        for start, offset, size, flags in self._segments:
            if not flags & _WRITABLE:
                continue
            words = array("Q")
            words.frombytes(self.content[offset : offset + size][: size // 8 * 8])
            for index in range(len(words) - 1):
                length = words[index + 1]
                if 5 <= length <= 64:
                    pointer = words[index] or moved.get(start + index * 8, 0)
                    value = self.at(pointer, length) if pointer else b""
                    if pattern.fullmatch(value):
                        yield value.decode().strip()

    def _relocations(self) -> dict[int, int]:
        """Give what a position-independent program's pointers are: they stand beside it, not in it."""
        found = {}
        for kind, offset, length in self._sections:
            if kind == _RELA:
                table = self.content[offset : offset + length // 24 * 24]
                for where, information, value in struct.iter_unpack("<QQq", table[: len(table) // 24 * 24]):
                    if information & 0xFFFFFFFF in _RELATIVE:
                        found[where] = value
        return found
