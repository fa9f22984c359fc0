"""We test that a bundle is filled from a registry with what is there, and that what is locked moves nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.lock import Image, Layer
from meshstrap.bundle.pull import pull
from meshstrap.bundle.store import INDEX_TYPE, MANIFEST_TYPE, Store

AMD64, ARM64 = "linux/amd64", "linux/arm64"


@dataclass(frozen=True)
class Registry:
    """A registry on this machine, which skopeo takes for docker.io."""

    port: int
    scratch: Path
    log: Path

    def push(self, name: str, *platforms: str, text: str = "first") -> dict[str, Image]:
        """Push an index of one image a platform; gives what was pushed."""
        layout = Store(self.scratch / f"{name.replace('/', '-').replace(':', '-')}-{text}")
        pushed = {}
        for platform in platforms:
            plain = f"{text} for {platform}".encode() * 500
            packed = gzip.compress(plain, 9, mtime=1)
            layer = Layer(layout.add(packed), f"sha256:{hashlib.sha256(plain).hexdigest()}", len(packed))
            pushed[platform] = layout.add_image(f"docker.io/{name}", platform, [layer], {"Cmd": ["/a"]}, "-")
        entries = [
            {
                "mediaType": MANIFEST_TYPE,
                "digest": each.manifest,
                "size": layout.blob(each.manifest).stat().st_size,
                "platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True)),
            }
            for platform, each in pushed.items()
        ]
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).encode()
        entry = {"mediaType": INDEX_TYPE, "digest": layout.add(index), "size": len(index)}
        (layout.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (layout.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        subprocess.run(
            ["skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{layout.directory}",
             f"docker://127.0.0.1:{self.port}/{name}"],
            check=True, capture_output=True,
        )  # fmt: skip
        return pushed

    def asked(self) -> int:
        """Count the requests so far."""
        return self.log.read_text().count('"GET /v2')


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    mirror = tmp_path / "home" / ".config" / "containers" / "registries.conf"
    mirror.parent.mkdir(parents=True)
    mirror.write_text(f'[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:{port}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    log = tmp_path / "registry.log"
    with log.open("wb") as file:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=file, stderr=file)
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    yield Registry(port, tmp_path, log)
    process.terminate()
    process.wait(30)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / "bundle")


def fetch(bundle: Bundle, *references: str, platforms: tuple[str, ...] = (AMD64,), replace: bool = False) -> list[str]:
    return pull(bundle, references, platforms, replace=replace, echo=print)


def is_pushed(bundle: Bundle, reference: str, pushed: dict[str, Image]) -> None:
    """Look whether the bundle has an image with every identity that it has in the registry."""
    for platform, wanted in pushed.items():
        found = bundle.read().image(reference, platform)
        assert found is not None
        assert (found.manifest, found.config, found.layers) == (wanted.manifest, wanted.config, wanted.layers)
        assert found.source == "registry docker.io"
    assert bundle.store.verify(bundle.read()) == []


def test_an_image_keeps_the_registrys_identities(registry: Registry, bundle: Bundle) -> None:
    pushed = registry.push("istio/pilot:1.13.1", AMD64, ARM64)
    assert fetch(bundle, "istio/pilot:1.13.1") == []
    is_pushed(bundle, "istio/pilot:1.13.1", {AMD64: pushed[AMD64]})
    assert [each.platform for each in bundle.read().images] == [AMD64]
    assert [each.name for each in bundle.directory.iterdir() if each.name.startswith(".pulling")] == []


def test_every_wanted_platform_is_pulled(registry: Registry, bundle: Bundle) -> None:
    pushed = registry.push("istio/pilot:1.13.1", AMD64, ARM64)
    assert fetch(bundle, "istio/pilot:1.13.1", platforms=(AMD64, ARM64)) == []
    is_pushed(bundle, "istio/pilot:1.13.1", pushed)


def test_what_is_locked_moves_nothing(registry: Registry, bundle: Bundle) -> None:
    registry.push("fortio/fortio:latest_release", AMD64)
    assert fetch(bundle, "fortio/fortio:latest_release") == []
    before = registry.asked()
    assert before > 0
    assert fetch(bundle, "fortio/fortio:latest_release") == []
    assert fetch(bundle) == []
    assert registry.asked() == before


def test_a_tag_that_moved_is_taken_only_when_told(registry: Registry, bundle: Bundle) -> None:
    first = registry.push("fortio/fortio:latest_release", AMD64)
    assert fetch(bundle, "fortio/fortio:latest_release") == []
    second = registry.push("fortio/fortio:latest_release", AMD64, text="second")
    assert fetch(bundle, "fortio/fortio:latest_release") == []
    is_pushed(bundle, "fortio/fortio:latest_release", first)
    assert fetch(bundle, "fortio/fortio:latest_release", replace=True) == []
    is_pushed(bundle, "fortio/fortio:latest_release", second)


def test_a_lock_without_its_store_is_filled_with_what_it_names(registry: Registry, bundle: Bundle) -> None:
    """A clone of the site's repository has the lock alone; the tag stands for something else by now."""
    pushed = registry.push("fortio/fortio:latest_release", AMD64)
    assert fetch(bundle, "fortio/fortio:latest_release") == []
    text = bundle.lock_file.read_text()
    shutil.rmtree(bundle.directory / "store")
    registry.push("fortio/fortio:latest_release", AMD64, text="second")
    assert fetch(bundle) == []
    assert bundle.lock_file.read_text() == text
    is_pushed(bundle, "fortio/fortio:latest_release", pushed)


def test_what_cannot_be_had_is_named_and_the_rest_comes(registry: Registry, bundle: Bundle) -> None:
    pushed = registry.push("xianchao/canary:v1", AMD64)
    registry.push("xianchao/canary:v2", ARM64)
    failures = fetch(bundle, "no/such:1", "xianchao/canary:v1", "xianchao/canary:v2")
    assert len(failures) == 2
    assert failures[0].startswith("docker.io/no/such:1 (linux/amd64): cannot be pulled: ")
    assert "docker.io/xianchao/canary:v2" in failures[1] and AMD64 in failures[1]
    is_pushed(bundle, "xianchao/canary:v1", pushed)
