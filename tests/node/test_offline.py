"""We test `meshstrap bundle check` with the lab's own bundle: what a site would lack without a way out is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.bundle.lock import Lock
from meshstrap.bundle.store import Store
from meshstrap.lab.directory import locate

MESHSTRAP = Path(sys.executable).with_name("meshstrap")
Finished = subprocess.CompletedProcess[str]
Check = Callable[..., Finished]


@pytest.fixture
def copied(checkout: Path, tmp_path: Path) -> Path:
    """A bundle with the lab's lock, which a test may change, and the lab's blobs."""
    lab = locate(os.environ, checkout).bundle
    copy = tmp_path / "bundle"
    copy.mkdir()
    (copy / "store").symlink_to(lab / "store")
    (copy / "bundle.lock.yaml").write_bytes((lab / "bundle.lock.yaml").read_bytes())
    return copy


@pytest.fixture
def check(checkout: Path, copied: Path, tmp_path: Path) -> Check:
    """Check the site of examples/ with the copied bundle: check("--data", "canary_weight=20")."""

    def run(*arguments: str | Path, settings: str = "") -> Finished:
        site = tmp_path / "site"
        (site / "group_data").mkdir(parents=True, exist_ok=True)
        (site / "inventory.py").write_text((checkout / "examples" / "inventory.py").read_text())
        shipped = (checkout / "examples" / "group_data" / "all.py").read_text()
        (site / "group_data" / "all.py").write_text(f"{shipped}\n{settings}\n")
        command = [str(MESHSTRAP), "bundle", "check", "--bundle", str(copied), *map(str, arguments)]
        return subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=300)

    return run


def change(copied: Path, edit: Callable[[Lock], Lock]) -> None:
    path = copied / "bundle.lock.yaml"
    bundle_lock.write(edit(bundle_lock.read(path)), path)


def without(copied: Path, *parts: str) -> None:
    """Take images out of the lock by a part of their names."""
    change(
        copied,
        lambda lock: replace(lock, images=tuple(i for i in lock.images if not any(p in i.reference for p in parts))),
    )


def test_the_shipped_site_starts_from_the_labs_bundle_alone(check: Check) -> None:
    done = check()
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ images are asked for, and .* holds them all$", done.stdout, re.MULTILINE)
    assert "not checked" not in done.stdout


def test_what_the_gateways_and_the_sidecar_ask_for_is_looked_up(check: Check, copied: Path) -> None:
    without(copied, "istio/proxyv2:1.31.0", "istio/pilot:1.31.0")
    done = check()
    assert done.returncode == 1
    source = "istioctl manifest generate (istio_version 1.31.0, profile demo)"
    lock = copied / "bundle.lock.yaml"
    for place, image in (
        (f"Deployment/istio-system/istiod in {source}", "pilot"),
        (f"Deployment/istio-system/istio-ingressgateway in {source}", "proxyv2"),
        (f"the sidecar that ConfigMap/istio-system/istio-sidecar-injector injects, in {source}", "proxyv2"),
    ):
        assert f"{place} asks for image docker.io/istio/{image}:1.31.0, which {lock} does not hold" in done.stderr


def test_what_kubeadm_lists_is_looked_up(check: Check, copied: Path) -> None:
    without(copied, "coredns", "pause")
    done = check()
    assert done.returncode == 1
    assert "kubeadm (kubernetes_version 1.34.10) asks for image registry.k8s.io/coredns/coredns:" in done.stderr
    assert "asks for image registry.k8s.io/pause:" in done.stderr


def test_what_a_scenario_asks_for_is_looked_up_under_its_name_from_data(check: Check) -> None:
    done = check(settings='images = [{"name": "xianchao/canary", "newTag": "v9"}]')
    assert done.returncode == 1
    assert "canary/manifests.yaml asks for image docker.io/xianchao/canary:v9" in done.stderr


def test_a_bad_manifest_is_named_with_every_fault(check: Check, tmp_path: Path) -> None:
    bad = tmp_path / "cni.yaml"
    bad.write_text(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: net, namespace: kube-system}\nspec:\n  template:\n"
        "    spec:\n      initContainers:\n      - {name: i, image: registry.example/cni}\n      containers:\n"
        "      - {name: c, image: 'busybox:1.28', imagePullPolicy: Always}\n"
    )
    done = check(settings=f"cni_manifests = ['{bad}']")
    assert done.returncode == 1
    place = f"DaemonSet/kube-system/net in {bad}"
    assert f"{place} asks for image registry.example/cni:latest, which" in done.stderr
    assert f"{place} has no imagePullPolicy for registry.example/cni:latest" in done.stderr
    assert f"{place} has imagePullPolicy Always for docker.io/library/busybox:1.28" in done.stderr


def test_an_istioctl_of_another_version_is_a_fault(check: Check) -> None:
    done = check("--data", "istio_version=1.28.0")
    assert done.returncode == 1
    assert "Istio: the bundle's istioctl is 1.31.0, and istio_version is 1.28.0" in done.stderr


def test_what_this_machine_cannot_run_is_said_not_to_be_checked(check: Check, copied: Path) -> None:
    change(
        copied, lambda lock: replace(lock, programs=tuple(replace(p, platform="linux/s390x") for p in lock.programs))
    )
    done = check("--platform", "linux/amd64")
    assert done.returncode == 0, done.stderr
    assert "not checked: Istio: the bundle's istioctl is for linux/s390x, and this machine is linux/" in done.stdout
    assert "not checked: Kubernetes: the bundle's kubeadm is for linux/s390x" in done.stdout


def test_what_a_bundle_for_others_cluster_cannot_tell_is_said_not_to_be_checked(check: Check, copied: Path) -> None:
    change(copied, lambda lock: replace(lock, programs=tuple(p for p in lock.programs if p.name == "istioctl")))
    done = check()
    assert done.returncode == 0, done.stderr
    assert "not checked: Kubernetes: the bundle has no kubeadm" in done.stdout
    assert "not checked: the nodes' platforms: name them with --platform" in done.stdout
    assert "platforms" not in check("--platform", "linux/amd64").stdout


def test_a_setting_that_nothing_reads_is_refused_with_the_one_that_is_meant(check: Check) -> None:
    done = check("--data", "canary_wieght=10")
    assert done.returncode == 1
    assert "--data canary_wieght: there is no such setting; is canary_weight meant?" in done.stderr


def test_an_altered_istioctl_is_not_run(check: Check, copied: Path, tmp_path: Path) -> None:
    program = next(p for p in bundle_lock.read(copied / "bundle.lock.yaml").programs if p.name == "istioctl")
    real = (copied / "store").resolve()
    (copied / "store").unlink()
    store = Store(copied / "store")
    blobs = store.blob(program.sha256).parent
    blobs.mkdir(parents=True)
    for blob in (real / "blobs" / "sha256").iterdir():
        (blobs / blob.name).symlink_to(blob)
    marker = tmp_path / "was-run"
    store.blob(program.sha256).unlink()
    store.blob(program.sha256).write_text(f"#!/bin/sh\ntouch {marker}\n".ljust(program.size))
    done = check()
    assert done.returncode == 1
    assert f"{store.blob(program.sha256)}: altered" in done.stderr
    assert not marker.exists()


def test_every_platform_of_the_nodes_counts(check: Check) -> None:
    done = check("--platform", "linux/amd64", "--platform", "linux/arm64")
    assert done.returncode == 1
    assert "holds for linux/amd64 only, not linux/arm64" in done.stderr


def test_without_an_inventory_it_says_where_it_looks(check: Check) -> None:
    done = check("--inventory", "none.py")
    assert done.returncode == 1
    assert "none.py: no such file" in done.stderr
