"""The recipe: the shipped one is whole, and what is wrong in one is named."""

import re
from pathlib import Path

import pytest
import yaml

from meshstrap.lab import programs
from meshstrap.lab.recipe import read
from meshstrap.lab.run import BuildError

SHIPPED = Path(__file__).parents[3] / "images" / "bundle.yaml"


def test_every_module_of_the_shipped_recipe_stands_in_its_go_mod() -> None:
    recipe = read(SHIPPED)
    versions = {name: programs.version(recipe, build) for name, build in recipe.builds.items()}
    assert versions["kubernetes"].startswith("v1.34.")
    assert versions["istioctl"] == versions["pilot-agent"] == versions["pilot-discovery"]
    without = ["canary", "bookinfo", "tomcat-app", "pause", "busybox"]
    assert [name for name, version in versions.items() if not version] == without
    for entry in recipe.programs:
        assert programs.version(recipe, recipe.builds[entry.build], entry.module)


def test_istio_images_carry_istioctls_version() -> None:
    recipe = read(SHIPPED)
    version = programs.version(recipe, recipe.builds["istioctl"])
    istio = [n for image in recipe.images for n in image.names if re.match("docker.io/istio/(pilot|proxyv2):", n)]
    tags = {name.partition(":")[2].removesuffix("-again") for name in istio}
    assert len(istio) == 4 and tags == {version}


def test_the_bare_node_asks_for_nothing_that_the_deploys_bring() -> None:
    packages = " ".join(read(SHIPPED).debian.node)
    assert not re.search("python|containerd|docker|runc|kube|cni", packages)


def test_no_host_is_named() -> None:
    files = [path for path in SHIPPED.parent.rglob("*.yaml") if "store" not in path.parts]
    for path in files:
        assert not re.search(r"https?://", path.read_text()), path


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"platform": None}, "platform: is missing"),
        ({"layers": {"x": {"files": {"/x": "nosuch"}}}}, "layers.x: nosuch is neither a build nor a file here"),
        ({"layers": {"x": {"filez": {}}}}, "layers.x: got an unexpected keyword argument 'filez'"),
        ({"programs": [{"name": "p", "build": "nosuch"}]}, "programs: p: there is no build nosuch"),
        (
            {"builds": {"b": {"kind": "c"}}, "programs": [{"name": "p", "build": "b"}]},
            "programs: p: build b has no version and no module",
        ),
        ({"images": [{"names": ["a:1"], "layers": ["nosuch"]}]}, "images: a:1: there is no layer nosuch"),
        ({"builds": {"b": {}}}, "builds.b: missing 1 required positional argument: 'kind'"),
        ({"builds": {"b": None}}, "builds.b: expected keys and values, found None"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    data: dict[str, object] = {
        "platform": "linux/amd64",
        "go": {"minimum": "1.26", "toolchain": "go1.26.8"},
        "debian": {"suite": "bookworm", "node": [], "base": []},
        "builds": {},
        "programs": [],
        "layers": {},
        "images": [],
    }
    data.update(change)
    path = tmp_path / "bundle.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(BuildError) as error:
        read(path)
    assert str(path) in str(error.value) and complaint in str(error.value)


def test_outside_a_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="checkout of the project"):
        read(tmp_path / "images" / "bundle.yaml")
