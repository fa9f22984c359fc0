"""We test the whole site: a second run of everything changes nothing, and after a power cut it is whole again."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from meshstrap.lab import access
from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Deploy = Callable[..., Any]


@pytest.fixture(scope="module")
def canary(standing: Lab, deploy: Deploy) -> None:
    """The canary, applied and proved."""
    made = deploy("canary")
    assert made.code == 0, made.said


@pytest.mark.usefixtures("canary")
def test_a_second_run_of_everything_changes_nothing_on_any_host(deploy: Deploy) -> None:
    dry = deploy("site", "--dry")
    assert (dry.code, dry.planned) == (0, []), dry.said
    for name in ("site", "canary"):
        second = deploy(name)
        assert (second.code, second.changed, second.failed) == (0, [], []), second.said


@pytest.mark.usefixtures("canary")
def test_after_a_power_cut_of_all_nodes_the_site_is_whole(standing: Lab, deploy: Deploy) -> None:
    record = read(standing.nodes_file)
    containers = [f"{record.name}-{node.name}" for node in record.nodes]
    subprocess.run(["docker", "kill", *containers], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["docker", "start", *containers], check=True, stdout=subprocess.DEVNULL)
    for node in record.nodes:
        access.wait_for_ssh(standing, node, 60, threading.Event())

    site = deploy("site")
    assert (site.code, site.changed) == (0, []), site.said
    canary = deploy("canary")
    assert (canary.code, canary.changed) == (0, []), canary.said
    assert "canary: PASS" in canary.said
