"""The lock: what is written is read back, and what is wrong in it is named by file and key."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshstrap.bundle.lock import Image, Layer, Lock, LockError, Program, read, write

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
digests = hexes.map(lambda h: f"sha256:{h}")
sizes = st.integers(0, 2**40)
words = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=20)
layers = st.builds(Layer, digests, digests, sizes)
names = st.from_regex(r"\A[a-z]{1,8}\Z").map(lambda n: f"docker.io/{n}/{n}:v1")
images = st.builds(
    Image,
    reference=names,
    platform=st.sampled_from(["linux/amd64", "linux/arm64"]),
    manifest=digests,
    config=digests,
    layers=st.lists(layers, max_size=3).map(tuple),
    size=sizes,
    source=words,
)
programs = st.builds(Program, words, words, st.just("linux/amd64"), hexes, sizes, words)
locks = st.builds(
    Lock,
    st.lists(images, max_size=4, unique_by=lambda i: (i.reference, i.platform)).map(tuple),
    st.lists(programs, max_size=4, unique_by=lambda p: p.name).map(tuple),
)


@settings(deadline=None)
@given(lock=locks)
def test_read_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, lock: Lock) -> None:
    path = tmp_path_factory.mktemp("lock") / "bundle.lock.yaml"
    write(lock, path)
    again = read(path)
    assert set(again.images) == set(lock.images)
    assert set(again.programs) == set(lock.programs)
    first = path.read_bytes()
    write(Lock(lock.images[::-1], lock.programs[::-1]), path)
    assert path.read_bytes() == first, "the order of writing shows in the file"


def example() -> Lock:
    layer = Layer("sha256:" + "1" * 64, "sha256:" + "2" * 64, 10)
    image = Image(
        "docker.io/library/a:1", "linux/amd64", "sha256:" + "3" * 64, "sha256:" + "4" * 64, (layer,), 30, "a test"
    )
    return Lock((image,), (Program("runc", "v1", "linux/amd64", "5" * 64, 7, "a test"),))


def test_finding() -> None:
    lock = example()
    assert lock.image("a:1", "linux/amd64") is lock.images[0]
    assert lock.image("a:1", "linux/arm64") is None
    assert lock.program("runc", "linux/amd64") is lock.programs[0]
    assert lock.program("runc", "linux/arm64") is None


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        (("images", 0, "manifest"), "sha256:12", "images[0].manifest"),
        (("images", 0, "reference"), "a:1", "images[0].reference"),
        (("images", 0, "layers", 0, "size"), -1, "images[0].layers[0].size"),
        (("images", 0, "layers"), "none", "images[0].layers"),
        (("programs", 0, "sha256"), "sha256:" + "5" * 64, "programs[0].sha256"),
        (("programs", 0, "size"), True, "programs[0].size"),
        (("programs", 0, "size"), 1 << 63, "programs[0].size"),
        (("version",), 2, "version"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, key: tuple[str | int, ...], value: object, named: str) -> None:
    path = tmp_path / "bundle.lock.yaml"
    write(example(), path)
    data = yaml.safe_load(path.read_text())
    place = data
    for step in key[:-1]:
        place = place[step]
    place[key[-1]] = value
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(LockError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {named}: ")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bundle.lock.yaml"
    write(example(), path)
    data = yaml.safe_load(path.read_text())
    del data["images"][0]["config"]
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(LockError, match=r"images\[0\]\.config: is missing"):
        read(path)


def test_the_same_image_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.lock.yaml"
    write(example(), path)
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**data, "images": data["images"] * 2}))
    with pytest.raises(LockError, match="an alias"):
        read(path)
    path.write_text(yaml.safe_dump({**data, "images": [data["images"][0], dict(data["images"][0], layers=[])]}))
    with pytest.raises(LockError, match="more than once"):
        read(path)


def test_a_lock_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """A name of a file that is no UTF-8, for example, or a hand that put the same entry in twice."""
    path = tmp_path / "bundle.lock.yaml"
    write(example(), path)
    before = path.read_bytes()
    (program,) = example().programs
    for bad in (replace(program, version="v\udcd6"), replace(program, size=-1), replace(program, source="")):
        with pytest.raises(LockError, match="what is there stays"):
            write(Lock(programs=(bad,)), path)
        assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bundle.lock.yaml"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists())))
    write(example(), path)
    assert synced == [(path.stat().st_size, False)]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        f"{BOMB}version: 1\nimages: *a11\n",
        f"version: 1\nimages: {'x' * 3_000_000}",
        f"version: 1\nimages: []\nprograms: [{{name: [{'[x],' * 100_000}]}}]",
        f"version: 0x{'f' * 8000}",
        f"version: {'9' * 8000}",
        f"!{'x' * 10_000} a",
        "[" * 200_000,
        "version: 2001-99-99",
        "version: !!int ''",
    ],
    ids=["aliases", "text", "list", "number", "digits", "tag", "depth", "date", "empty"],
)
def test_whatever_is_in_a_lock_the_message_is_one_that_a_person_reads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bundle.lock.yaml"
    path.write_text(text)
    with pytest.raises(LockError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["", "[]", "a: [", "just words", "version: 1\nimages: []"])
def test_what_is_no_lock_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bundle.lock.yaml"
    path.write_text(text)
    with pytest.raises(LockError, match=str(path)):
        read(path)


def test_no_bundle_yet_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="meshstrap lab build"):
        read(tmp_path / "bundle.lock.yaml")
