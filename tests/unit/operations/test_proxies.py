"""We test that nothing of ours takes the proxies that a node's people have: scripts unset them, and so do units."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from types import ModuleType

import pytest

from meshstrap.facts import kubeadm as facts
from meshstrap.facts import runtime
from meshstrap.facts.system import PATH, PROXY_VARIABLES
from meshstrap.operations import containerd, kubeadm

# Those of our programs that go by the variables.
ASKS = re.compile(r"^[^#]*\b(kubeadm|kubectl) ", re.MULTILINE)


def texts(module: ModuleType) -> Iterator[tuple[str, str]]:
    for name, value in vars(module).items():
        if isinstance(value, str) and not name.startswith("__") and "\n" in value and "[Unit]" not in value:
            yield f"{module.__name__}.{name}", value


SCRIPTS = {name: text for module in (facts, kubeadm) for name, text in texts(module) if ASKS.search(text)}


def test_a_script_of_ours_begins_without_the_proxies() -> None:
    proxied = {name: "http://192.0.2.9:3128" for name in PROXY_VARIABLES}
    said = subprocess.run(["sh", "-c", f"{PATH}; env"], env=proxied, capture_output=True, text=True, check=True).stdout
    assert "3128" not in said and "LC_ALL=C" in said


def test_there_are_scripts_to_look_at() -> None:
    assert {"meshstrap.operations.kubeadm._RUN", "meshstrap.facts.kubeadm._CLUSTER"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_asks_the_api_server_unsets_them_first(name: str) -> None:
    assert SCRIPTS[name].lstrip().startswith(PATH)


def test_images_of_pods_are_asked_for_without_them() -> None:
    assert runtime.PodImages().command().startswith(PATH)


@pytest.mark.parametrize("unit", [kubeadm._KUBELET_UNIT, containerd._UNIT], ids=["kubelet", "containerd"])
def test_our_services_run_without_them(unit: str) -> None:
    line = next(line for line in unit.splitlines() if line.startswith("UnsetEnvironment="))
    assert set(line.removeprefix("UnsetEnvironment=").split()) == set(PROXY_VARIABLES)
