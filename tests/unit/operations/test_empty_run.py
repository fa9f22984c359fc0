"""We test that a run of deploys that does nothing ends with exit code 1 and says why, as pyinfra itself runs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from meshstrap.operations.empty_run import LOCK

CHECKOUT = Path(__file__).resolve().parents[3]
DEPLOY = f"""
from pyinfra import host
from pyinfra.operations import server

server.shell(name="{LOCK}", commands=["true"])
if "leader" in host.groups:
    server.shell(name="Work", commands=["true"])
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    shutil.copy(CHECKOUT / "config.py", tmp_path)
    (tmp_path / "inventory.py").write_text('leader = ["@local"]\n')
    (tmp_path / "deploy.py").write_text(DEPLOY)
    return tmp_path


def run(site: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["pyinfra", *arguments], cwd=site, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("more", [("-y",), ("--dry",)])
def test_a_run_without_hosts_fails(site: Path, more: tuple[str, ...]) -> None:
    code, said = run(site, "inventory.py", "deploy.py", *more, "--limit", "nosuch")
    assert (code, "No host took part" in said) == (1, True), said


def test_a_run_without_work_fails(site: Path) -> None:
    (site / "inventory.py").write_text('leader = [("elsewhere", {})]\nworkers = ["@local"]\n')
    code, said = run(site, "inventory.py", "deploy.py", "-y", "--limit", "workers")
    assert (code, "No operation is for these hosts" in said) == (1, True), said


def test_a_run_that_works_and_a_question_are_left_alone(site: Path) -> None:
    code, said = run(site, "inventory.py", "deploy.py", "-y", "--limit", "@local")
    assert code == 0, said
    assert run(site, "inventory.py", "debug-inventory", "--limit", "nosuch")[0] == 0


def test_a_run_that_fails_by_itself_keeps_its_words(site: Path) -> None:
    code, said = run(site, "inventory.py", "nosuch.py", "-y")
    assert code == 1 and "took part" not in said, said
