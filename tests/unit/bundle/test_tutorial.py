"""We test that archives with the tutorial's names and tags come into a bundle under these, and that data `images` can
have the scenarios use them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from meshstrap.bundle import check
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.reference import override
from meshstrap.scenarios import find, names

from . import archives
from .conftest import Put

# As the tutorial loads them, and as its manifests write them.
ARCHIVES = {
    "pilot.tar.gz": ["istio/pilot:1.13.1"],
    "proxyv2.tar.gz": ["istio/proxyv2:1.13.1"],
    "httpbin.tar.gz": ["kennethreitz/httpbin"],
    "fortio.tar.gz": ["fortio/fortio:latest_release"],
    "examples-bookinfo-details.tar.gz": ["istio/examples-bookinfo-details-v1:1.15.0"],
    "examples-bookinfo-ratings.tar.gz": ["istio/examples-bookinfo-ratings-v1:1.15.0"],
    "examples-bookinfo-reviews-v1.tar.gz": ["istio/examples-bookinfo-reviews-v1:1.15.0"],
    "examples-bookinfo-reviews-v2.tar.gz": ["istio/examples-bookinfo-reviews-v2:1.15.0"],
    "examples-bookinfo-reviews-v3.tar.gz": ["istio/examples-bookinfo-reviews-v3:1.15.0"],
    "examples-bookinfo-productpage.tar.gz": ["istio/examples-bookinfo-productpage-v1:1.16.2"],
    "canary-v1.tar.gz": ["xianchao/canary:v1"],
    "canary-v2.tar.gz": ["xianchao/canary:v2"],
    "busybox.tar.gz": ["busybox:1.28"],
    "nginx.tar.gz": ["nginx:1.14-alpine"],
    "tomcat-app.tar.gz": ["docker.io/kubeguide/tomcat-app:v1"],
}


@pytest.fixture
def usb(tmp_path: Path) -> Path:
    """The course's archives, as docker save and gzip wrote them."""
    disk = tmp_path / "usb"
    disk.mkdir()
    for name, tags in ARCHIVES.items():
        # docker save writes the tag that a name without one stands for.
        full = [tag if ":" in tag else f"{tag}:latest" for tag in tags]
        archives.write(disk / name, archives.docker((archives.image("base", name), full)), "gzip")
    return disk


def test_the_tutorials_archives_have_the_names_of_its_manifests(usb: Path, bundle: Bundle, put: Put) -> None:
    assert put(usb) == []
    lock = bundle.read()
    assert len(lock.images) == len(ARCHIVES)
    for name, (tag,) in ARCHIVES.items():
        found = lock.image(tag, "linux/amd64")
        assert found is not None and found.source == f"docker archive {name}"
        assert found.config == archives.image("base", name).config_digest
    assert bundle.store.verify(lock) == []


def test_an_archive_without_a_name_is_given_the_tutorials(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = archives.write(tmp_path / "httpbin.tar.gz", archives.docker((archives.image("h"), None)), "gzip")
    assert put(path, name="kennethreitz/httpbin") == []
    assert bundle.read().image("kennethreitz/httpbin", "linux/amd64")


def test_a_scenario_runs_on_images_that_data_names(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    """A school has its canary under other names; `images` alone has the scenario ask for these."""
    for version in ("v1", "v2"):
        members = archives.docker((archives.image(version), [f"school.example/canary-demo:{version}"]))
        assert put(archives.write(tmp_path / f"{version}.tar", members)) == []
    scenario = find("canary")
    data = [{"name": "xianchao/canary", "newName": "school.example/canary-demo"}]
    lock = bundle.read()
    plain = scenario.objects(scenario.parameters({}))
    renamed = scenario.objects(scenario.parameters({}), image=lambda each: override(each, data))
    assert len(check.judge(lock, check.uses(plain, "manifests.yaml"), ["linux/amd64"])) == 2
    assert check.judge(lock, check.uses(renamed, "manifests.yaml"), ["linux/amd64"]) == []


def test_every_scenario_of_the_tutorial_runs_on_its_archives_by_data_images(
    usb: Path, bundle: Bundle, put: Put
) -> None:
    assert put(usb) == []
    lock = bundle.read()
    for name in names():
        scenario = find(name)
        asked = check.uses(scenario.objects(scenario.parameters({})), name)
        # The tutorial's archive for each repository, whatever tag the scenario's own manifest has.
        data = [
            {"name": repository, "newTag": tag}
            for (full,) in ARCHIVES.values()
            for repository, _, tag in [full.partition(":")]
            if tag
        ]
        data += [{"name": "mccutchen/go-httpbin", "newName": "kennethreitz/httpbin", "newTag": "latest"}]
        renamed = scenario.objects(scenario.parameters({}), image=lambda each, data=data: override(each, data))  # type: ignore[misc]
        assert asked
        faults = check.judge(lock, check.uses(renamed, name), ["linux/amd64"])
        assert [each for each in faults if "does not hold" in each] == []
