"""Which Go compiles: this machine's, one that it fetches, or a clear word that there is none."""

import os
from pathlib import Path

import pytest

from meshstrap.lab.programs import Compiler, find_go, missing_packages
from meshstrap.lab.recipe import Recipe, read
from meshstrap.lab.run import BuildError

RECIPE = Path(__file__).parents[3] / "images" / "bundle.yaml"


@pytest.fixture
def recipe() -> Recipe:
    return read(RECIPE)


def with_go(directory: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    go = directory / "go"
    go.write_text(f'#!/bin/sh\n[ "$GOTOOLCHAIN" = local ] && [ "$2" = GOVERSION ] && echo {version}\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("version", ["go1.26.6", "go1.26.8", "go1.27rc1", "go2.0"])
def test_a_new_enough_go_compiles_itself(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    with_go(tmp_path, monkeypatch, version)
    assert find_go(recipe, tmp_path) == Compiler("go", version, {"GOTOOLCHAIN": "local"})


@pytest.mark.parametrize("version", ["go1.21.0", "go1.24.9", "go1.26.5"])
def test_an_older_one_fetches_what_is_needed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    with_go(tmp_path, monkeypatch, version)
    wanted = recipe.go.toolchain
    assert find_go(recipe, tmp_path) == Compiler("go", wanted, {"GOTOOLCHAIN": wanted})


def test_what_cannot_be_fetched_is_named(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_go(tmp_path, monkeypatch, "go1.19.8")
    with pytest.raises(BuildError, match=f"go mod download golang.org/toolchain@v0.0.1-{recipe.go.toolchain}"):
        find_go(recipe, tmp_path)


def test_no_go_at_all_says_so(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no go command found: install Go"):
        find_go(recipe, tmp_path)


def test_what_this_machine_lacks_is_named_by_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {"gcc", "libc6-dev", "libseccomp-dev", "debootstrap"} <= set(missing_packages())
