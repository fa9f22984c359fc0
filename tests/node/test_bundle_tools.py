"""We test that what docker, skopeo, ctr and Go's linker really write comes into a bundle as what it is."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshstrap.bundle.add import Wishes, add
from meshstrap.bundle.archive import write
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.lock import Image
from meshstrap.bundle.programs import Recognised, recognise
from meshstrap.bundle.store import Store
from meshstrap.lab.directory import Lab, locate
from meshstrap.lab.docker import Docker

PAUSE = "registry.k8s.io/pause:3.10.1"
COREDNS = "registry.k8s.io/coredns/coredns:v1.12.1"
PLUGINS = ("bridge", "host-local", "loopback", "portmap")
FORTIO = "docker.io/fortio/fortio:latest_release"
FORTIO_NUMBERED = "docker.io/fortio/fortio:1.66.5"


def run(*command: str | Path, **arguments: object) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **arguments)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@dataclass(frozen=True)
class Site:
    """The lab's bundle, read only, and one that is filled."""

    lab: Bundle
    mine: Bundle

    def locked(self, reference: str) -> Image:
        found = self.lab.read().image(reference, "linux/amd64")
        assert found is not None
        return found

    def add(self, path: Path, **wishes: object) -> Image:
        """Add what holds one image; gives it back, looked at."""
        assert add(self.mine, [path], Wishes(**wishes), print) == []  # type: ignore[arg-type]
        (image,) = self.mine.read().images
        assert self.mine.store.verify(self.mine.read()) == []
        for layer in image.layers:
            content = gzip.decompress(self.mine.store.blob(layer.digest).read_bytes())
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == layer.diff_id
        return image

    def oci(self, reference: str) -> str:
        """Name an image of the lab's store as skopeo reads it: by its full name among all others."""
        directory = self.mine.directory.parent / "store"
        directory.mkdir(exist_ok=True)
        if not (directory / "blobs").exists():
            (directory / "blobs").symlink_to(self.lab.store.directory / "blobs")
        # The lab's own may be of a build whose index names tags alone.
        Store(directory).write_index(self.lab.read().images)
        return f"oci:{directory}:{reference}"


@pytest.fixture
def site(checkout: Path, tmp_path: Path) -> Site:
    return Site(Bundle(locate(os.environ, checkout).bundle), Bundle(tmp_path / "mine"))


@pytest.fixture
def docker(bare_node: Lab) -> Iterator[Docker]:
    """The engine that the lab runs on, without what a test has it load."""
    docker = Docker("docker")
    there = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    yield docker
    for reference in (PAUSE, COREDNS, FORTIO, FORTIO_NUMBERED):
        # Docker leaves its own registry's name out.
        name = reference.removeprefix("docker.io/")
        if name not in there and docker("image", "ls", "--quiet", name):
            docker("image", "rm", name)


def loaded(docker: Docker, site: Site, tmp_path: Path, *references: str) -> None:
    archive = tmp_path / "for-docker.tar"
    with archive.open("wb") as file:
        write(file, site.lab.store, [site.locked(each) for each in references])
    docker("load", stdin=archive)


def test_what_docker_saves_is_the_image_that_it_shows(site: Site, docker: Docker, tmp_path: Path) -> None:
    loaded(docker, site, tmp_path, COREDNS)
    docker("save", "--output", str(tmp_path / "coredns.tar"), COREDNS)
    image = site.add(tmp_path / "coredns.tar")
    assert image.reference == COREDNS
    assert image.config == docker("image", "inspect", "--format", "{{.Id}}", COREDNS).strip()
    assert image.config == site.locked(COREDNS).config
    # Our gzip of what Docker unpacked is what the lab's build made of it.
    assert image.layers == site.locked(COREDNS).layers
    assert image.manifest == site.locked(COREDNS).manifest


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_several_images_that_docker_saves_and_a_person_compresses(
    site: Site, docker: Docker, tmp_path: Path, packed: str
) -> None:
    names = [PAUSE, FORTIO, FORTIO_NUMBERED]
    loaded(docker, site, tmp_path, *names)
    docker("save", "--output", str(tmp_path / "many.tar"), *names)
    run(packed, "-q", "-1", tmp_path / "many.tar")
    (path,) = tmp_path.glob("many.tar.*")
    assert add(site.mine, [path], Wishes(), print) == []
    assert {each.reference: each.config for each in site.mine.read().images} == {
        name: site.locked(name).config for name in names
    }


def test_what_docker_loads_is_what_was_added(site: Site, docker: Docker, tmp_path: Path) -> None:
    """Round: the archive for nodes, made of what was added from skopeo's zstd."""
    run("skopeo", "copy", "--dest-compress-format=zstd", site.oci(COREDNS), f"oci:{tmp_path / 'zstd'}:{COREDNS}")
    image = site.add(tmp_path / "zstd")
    with (tmp_path / "node.tar").open("wb") as file:
        write(file, site.mine.store, [image])
    docker("load", "--input", str(tmp_path / "node.tar"))
    assert docker("image", "inspect", "--format", "{{.Id}}", COREDNS).strip() == image.config


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_what_skopeo_archives(site: Site, tmp_path: Path, form: str) -> None:
    path = tmp_path / "coredns.tar"
    run("skopeo", "copy", site.oci(COREDNS), f"{form}:{path}:{COREDNS}")
    image = site.add(path)
    locked = site.locked(COREDNS)
    assert image.reference == COREDNS
    assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in locked.layers]
    if form == "oci-archive":
        assert (image.manifest, image.config, image.layers) == (locked.manifest, locked.config, locked.layers)


@pytest.mark.parametrize("form", ["oci", "dir"])
def test_what_skopeo_writes_as_directories_keeps_every_identity(site: Site, tmp_path: Path, form: str) -> None:
    name = f":{COREDNS}" if form == "oci" else ""
    run("skopeo", "copy", site.oci(COREDNS), f"{form}:{tmp_path / 'out'}{name}")
    image = site.add(tmp_path / "out", name=COREDNS)
    locked = site.locked(COREDNS)
    assert (image.manifest, image.config, image.layers) == (locked.manifest, locked.config, locked.layers)


def test_skopeo_finds_every_image_of_a_store_by_its_full_name(site: Site) -> None:
    for image in site.lab.read().images:
        shown = json.loads(run("skopeo", "inspect", "--raw", site.oci(image.reference)))
        assert shown["config"]["digest"] == image.config


def test_the_labs_own_store_is_an_oci_layout_and_its_bundle_a_bundle(site: Site, tmp_path: Path) -> None:
    assert add(site.mine, [site.lab.directory], Wishes(), print) == []
    assert site.mine.lock_file.read_text() == site.lab.lock_file.read_text()


@pytest.fixture
def ctr(site: Site, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """ctr from the bundle, speaking to a containerd of the test's own."""
    lock = site.lab.read()
    programs = {}
    for name in ("containerd", "ctr"):
        program = lock.program(name, "linux/amd64")
        assert program is not None
        programs[name] = tmp_path / name
        shutil.copyfile(site.lab.store.blob(program.sha256), programs[name])
        programs[name].chmod(0o755)
    home, socket = tmp_path / "containerd-home", tmp_path / "c.sock"
    command: list[str | Path] = [
        programs["containerd"],
        "--root",
        home / "root",
        "--state",
        home / "state",
        "--address",
        socket,
    ]
    config = tmp_path / "config.toml"
    config.write_text('version = 3\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"]\n')
    with (tmp_path / "containerd.log").open("wb") as log:
        process = subprocess.Popen([*command, "--config", config], stdout=log, stderr=log)

    def call(*arguments: str | Path) -> str:
        return run(programs["ctr"], "--address", socket, "--namespace", "test", *arguments)

    deadline = time.monotonic() + 60
    while subprocess.run([programs["ctr"], "--address", socket, "version"], capture_output=True).returncode:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "containerd.log").read_text()
        time.sleep(0.1)
    yield call
    process.terminate()
    process.wait(30)


def test_what_ctr_exports_keeps_every_identity(site: Site, ctr: Callable[..., str], tmp_path: Path) -> None:
    source = tmp_path / "in.tar"
    with source.open("wb") as file:
        write(file, site.lab.store, [site.locked(COREDNS)])
    ctr("images", "import", "--no-unpack", source)
    ctr("images", "export", tmp_path / "out.tar", COREDNS)
    image = site.add(tmp_path / "out.tar")
    locked = site.locked(COREDNS)
    assert image.reference == COREDNS
    assert (image.manifest, image.config, image.layers) == (locked.manifest, locked.config, locked.layers)


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
@pytest.mark.parametrize("mode", ["exe", "pie"])
def test_what_go_links_is_known_by_its_content(tmp_path: Path, architecture: str, mode: str) -> None:
    source = tmp_path / "istioctl" / "cmd" / "istioctl"
    source.mkdir(parents=True)
    (tmp_path / "go.mod").write_text("module istio.io/istio\n\ngo 1.21\n")
    (source / "main.go").write_text(
        'package main\n\nimport "os"\n\nvar buildVersion = "unknown"\n\n'
        "func main() { os.Stdout.WriteString(buildVersion) }\n"
    )
    environment = os.environ | {"GOARCH": architecture, "GOOS": "linux", "CGO_ENABLED": "0", "GOFLAGS": ""}
    flags = "-s -w -X main.buildVersion=1.13.1"
    output = tmp_path / "download"
    # -trimpath, as releases are built: the linker's flags are not in the build information.
    run(
        "go", "build", "-trimpath", f"-buildmode={mode}", f"-ldflags={flags}", "-o", output, "./istioctl/cmd/istioctl",
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert recognise(output) == Recognised("istioctl", f"linux/{architecture}", ("1.13.1",))


def test_the_labs_own_programs_are_known_by_their_content(site: Site) -> None:
    lock = site.lab.read()
    names = {"istioctl", "containerd", "containerd-shim-runc-v2", "ctr", "runc", *PLUGINS}
    for program in lock.programs:
        known = recognise(site.lab.store.blob(program.sha256))
        if program.name in names:
            assert known is not None
            assert (known.name, known.platform) == (program.name, program.platform)
            assert [each.removeprefix("v") for each in known.versions] == [program.version.removeprefix("v")]
            names.remove(program.name)
    assert not names


def test_a_disk_that_fills_up_loses_nothing(site: Site, tmp_path: Path) -> None:
    """A file system of its own, too small for the image."""
    mount = tmp_path / "small"
    mount.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", mount)
    try:
        small = Bundle(mount / "bundle")
        archive, other = tmp_path / "coredns.tar", tmp_path / "pause.tar"
        for path, reference in ((archive, COREDNS), (other, PAUSE)):
            run("skopeo", "copy", site.oci(reference), f"docker-archive:{path}:{reference}")
        assert add(small, [other], Wishes(), print) == []
        before = small.read()
        (failure,) = add(small, [archive], Wishes(), print)
        assert f"{mount}/bundle/store: cannot be written: No space left on device" in failure
        assert small.read() == before and small.store.verify(before) == []
        assert not list(small.store.blob("x").parent.glob(".adding-*"))
        run("mount", "-o", "remount,size=64m", mount)
        assert add(small, [archive], Wishes(), print) == []
        assert len(small.read().images) == 2 and small.store.verify(small.read()) == []
    finally:
        run("umount", mount)
