"""The lab's bundle: built by real tools, the same each time, resumed where it was broken off, and whole."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml

from meshstrap.bundle import lock
from meshstrap.bundle.store import Store
from meshstrap.lab import debian
from meshstrap.lab.build import build
from meshstrap.lab.run import BuildError

CHECKOUT = Path(__file__).parents[2]
LAB = Path(os.environ.get("MESHSTRAP_LAB", CHECKOUT / ".lab"))
BUNDLE = Path(os.environ.get("MESHSTRAP_BUNDLE", LAB / "bundle"))


def small_checkout(directory: Path) -> Path:
    """The shipped recipe cut down to what is built in seconds: a Go stand-in and a C program."""
    images = directory / "images"
    images.mkdir(parents=True)
    data = yaml.safe_load((CHECKOUT / "images/bundle.yaml").read_text())
    data["builds"] = {name: data["builds"][name] for name in ("canary", "pause")}
    data["layers"] = {name: data["layers"][name] for name in ("canary", "pause")}
    data["builds"]["pause"]["version"] = "1"
    data["programs"] = [{"name": "pause", "build": "pause"}]
    data["images"] = [i for i in data["images"] if "canary" in i["names"][0]]
    data["images"].append({"names": ["registry.k8s.io/pause:test"], "layers": ["pause"]})
    (images / "bundle.yaml").write_text(yaml.safe_dump(data))
    for source in ("stand-ins/canary", "programs/pause"):
        shutil.copytree(CHECKOUT / "images" / source, images / source)
    return directory


def built(directory: Path) -> tuple[Path, list[str]]:
    """Build the small bundle; gives the lab's directory and the steps that were done."""
    said: list[str] = []
    build(directory / "lab", directory / "checkout", said.append, only=("bundle",))
    return directory / "lab", [m.group(1) for line in said if (m := re.search(r"\d  (.+): done in", line))]


def test_the_same_image_built_twice_has_the_same_digests(tmp_path: Path) -> None:
    locks = []
    for name in ("one", "two"):
        small_checkout(tmp_path / name / "checkout")
        lab, steps = built(tmp_path / name)
        assert steps, "nothing was built"
        locks.append((lab / "bundle/bundle.lock.yaml").read_bytes())
        assert Store(lab / "bundle/store").verify(lock.read(lab / "bundle/bundle.lock.yaml")) == []
        time.sleep(1.1)  # times in whole seconds, if any got in, differ now
    assert locks[0] == locks[1]


def test_a_second_build_does_nothing_and_repairs_what_is_gone(tmp_path: Path) -> None:
    small_checkout(tmp_path / "checkout")
    lab, first = built(tmp_path)
    before = (lab / "bundle/bundle.lock.yaml").read_bytes()
    assert sorted(first) == ["canary", "layer canary", "layer pause", "pause"]
    assert built(tmp_path)[1] == []
    store = Store(lab / "bundle/store")
    image = lock.read(lab / "bundle/bundle.lock.yaml").image("xianchao/canary:v2", "linux/amd64")
    assert image is not None
    store.blob(image.layers[0].digest).unlink()
    store.blob(image.manifest).unlink()
    assert built(tmp_path)[1] == ["layer canary"]
    assert store.verify(lock.read(lab / "bundle/bundle.lock.yaml")) == []
    assert (lab / "bundle/bundle.lock.yaml").read_bytes() == before


def test_a_changed_source_is_built_anew_and_its_old_blobs_go(tmp_path: Path) -> None:
    checkout = small_checkout(tmp_path / "checkout")
    lab, _ = built(tmp_path)
    old = lock.read(lab / "bundle/bundle.lock.yaml")
    main = checkout / "images/stand-ins/canary/main.go"
    main.write_text(main.read_text().replace('"canary-"', '"kanarie-"'))
    assert built(tmp_path)[1] == ["canary", "layer canary"]
    new = lock.read(lab / "bundle/bundle.lock.yaml")
    assert new.images != old.images and new.programs == old.programs
    blobs = {path.name for path in (lab / "bundle/store/blobs/sha256").iterdir()}
    assert old.images[0].manifest.removeprefix("sha256:") not in blobs


def test_killed_at_any_step_it_goes_on(tmp_path: Path) -> None:
    small_checkout(tmp_path / "checkout")
    program = (
        "import sys; from pathlib import Path; from meshstrap.lab.build import build; "
        f"root = Path({str(tmp_path)!r}); "
        "build(root / 'lab', root / 'checkout', lambda line: print(line, flush=True), only=('bundle',))"
    )
    done = set()
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            step = re.search(r"\d  (.+): done in", line)
            if step:
                assert step.group(1) not in done, "a step that was done was done again"
                done.add(step.group(1))
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
        if child.returncode == 0:
            break
    assert child.returncode == 0
    lab = tmp_path / "lab"
    assert Store(lab / "bundle/store").verify(lock.read(lab / "bundle/bundle.lock.yaml")) == []
    assert not list((lab / "build/scratch").iterdir())


def test_a_failing_compiler_is_quoted_and_leaves_no_lock(tmp_path: Path) -> None:
    checkout = small_checkout(tmp_path / "checkout")
    (checkout / "images/stand-ins/canary/main.go").write_text("package main\n\nfunc main() { nosuch() }\n")
    with pytest.raises(BuildError, match="undefined: nosuch"):
        built(tmp_path)
    assert not (tmp_path / "lab/bundle/bundle.lock.yaml").exists()


def test_two_builds_at_once_in_one_lab_are_refused(tmp_path: Path) -> None:
    small_checkout(tmp_path / "checkout")
    (tmp_path / "lab/build").mkdir(parents=True)
    with (tmp_path / "lab/build/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4242")
        held.flush()
        with pytest.raises(BuildError, match=r"another build runs here \(process 4242\)"):
            built(tmp_path)


def test_what_an_interrupted_debootstrap_mounted_goes_before_anything_is_removed(tmp_path: Path) -> None:
    point = tmp_path / "scratch/base/proc"
    point.mkdir(parents=True)
    source = tmp_path / "machine"
    (source / "precious").mkdir(parents=True)
    subprocess.run(["mount", "--bind", source, point], check=True)
    assert (point / "precious").is_dir()
    debian.remove(tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()
    assert (source / "precious").is_dir(), "it was removed through the mount"


@pytest.fixture(scope="module")
def bundle() -> lock.Lock:
    """The lab's own bundle, built if it is not there yet."""
    if not (BUNDLE / "bundle.lock.yaml").exists():
        build(LAB, CHECKOUT, print)
    return lock.read(BUNDLE / "bundle.lock.yaml")


@pytest.mark.timeout(3600)
def test_the_store_holds_all_that_the_lock_names(bundle: lock.Lock) -> None:
    assert Store(BUNDLE / "store").verify(bundle) == []


@pytest.mark.timeout(3600)
def test_the_bundle_holds_what_the_recipe_names(bundle: lock.Lock) -> None:
    recipe = yaml.safe_load((CHECKOUT / "images/bundle.yaml").read_text())
    assert {program.name for program in bundle.programs} == {entry["name"] for entry in recipe["programs"]}
    named = {name.partition(":")[0] for image in recipe["images"] for name in image["names"]}
    assert {image.reference.rpartition(":")[0] for image in bundle.images} == named
    assert all(image.source for image in bundle.images)
    assert all(program.source and program.version for program in bundle.programs)


@pytest.mark.timeout(3600)
def test_kubernetes_images_share_their_one_layer(bundle: lock.Lock) -> None:
    tops = {
        image.layers[-1].digest
        for image in bundle.images
        if image.reference.startswith(("registry.k8s.io/kube-", "registry.k8s.io/etcd:"))
    }
    assert len(tops) == 1
    bases = {i.layers[0].digest for i in bundle.images if re.search("istio/(pilot|proxyv2)|kube-proxy", i.reference)}
    assert len(bases) == 1


@pytest.mark.timeout(3600)
def test_kubeadm_finds_every_image_that_it_asks_for(bundle: lock.Lock, tmp_path: Path) -> None:
    kubeadm = bundle.program("kubeadm", "linux/amd64")
    assert kubeadm is not None
    program = tmp_path / "kubeadm"
    shutil.copyfile(BUNDLE / "store/blobs/sha256" / kubeadm.sha256, program)
    program.chmod(0o755)
    asked = subprocess.run(
        [program, "config", "images", "list", "--kubernetes-version", kubeadm.version],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(asked) == 7
    assert [reference for reference in asked if bundle.image(reference, "linux/amd64") is None] == []


@pytest.mark.timeout(3600)
def test_the_bare_node_is_bare(bundle: lock.Lock) -> None:
    with tarfile.open(BUNDLE.parent / "build/node-rootfs.tar") as tar:
        names = tar.getnames()
    programs = {name.rpartition("/")[2] for name in names if re.match(r"(usr/)?(local/)?s?bin/", name)}
    assert {"systemd", "sshd", "iptables", "conntrack"} <= {name.rpartition("/")[2] for name in names}
    assert not [p for p in programs if re.match("python|pypy|containerd|dockerd|runc$|kube|ctr$", p)]
    assert not [name for name in names if "ssh_host_" in name], "every node needs ssh keys of its own"
