"""Build one file each: from a Go module, a wheel, a C source or a Debian package."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshstrap.bundle.store import digest_of
from meshstrap.lab.recipe import Build, Recipe
from meshstrap.lab.run import BuildError, run


@dataclass(frozen=True)
class Made:
    """A file that was built.

    Args:
        path: Where it is.
        sha256: Its digest in hex.
        version: Its version, empty where it has none.
        source: What it was built from, for people.
    """

    path: str
    sha256: str
    version: str
    source: str


@dataclass(frozen=True)
class Compiler:
    """A Go that compiles.

    Args:
        command: The go command.
        version: Its version: part of what a Go program is made from.
        environment: What it needs to be itself and no other.
    """

    command: str
    version: str
    environment: dict[str, str]


@dataclass(frozen=True)
class Workshop:
    """Where files are built.

    Args:
        recipe: What they are made of.
        directory: The lab's build directory.
        go: What compiles Go.
    """

    recipe: Recipe
    directory: Path
    go: Compiler

    @property
    def scratch(self) -> Path:
        """Files that are not whole yet; emptied when a build begins."""
        return self.directory / "scratch"

    def output(self, build: Build) -> Path:
        """Where a build's file ends up."""
        return self.directory / "bin" / build.name

    def log(self, name: str) -> Path:
        """Where a step's output goes."""
        return self.directory / "logs" / f"{name}.log"


def find_go(recipe: Recipe, directory: Path) -> Compiler:
    """Choose the Go that compiles: this machine's if it is new enough, else one that it fetches as a module.

    Args:
        recipe: Names the oldest version that will do, and what is fetched otherwise.
        directory: The lab's build directory: a Go too old to use what it fetches gets it laid out there.

    Returns:
        The compiler.

    Raises:
        BuildError: There is no Go, or the newer one cannot be fetched.
    """
    if not _has("go"):
        raise BuildError(
            f"no go command found: install Go (Debian: golang-go). Where it is older than {recipe.go.minimum} it "
            f"fetches {recipe.go.toolchain} by itself"
        )
    here = subprocess.run(
        ["go", "env", "GOVERSION"],
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if _numbers(here) >= _numbers(recipe.go.minimum):
        return Compiler("go", here, {"GOTOOLCHAIN": "local"})
    if _numbers(here) >= (1, 21):
        return Compiler("go", recipe.go.toolchain, {"GOTOOLCHAIN": recipe.go.toolchain})
    root = directory / recipe.go.toolchain
    if not root.exists():
        _lay_out_toolchain(recipe, root)
    return Compiler(str(root / "bin/go"), recipe.go.toolchain, {"GOTOOLCHAIN": "local", "GOROOT": str(root.resolve())})


def _lay_out_toolchain(recipe: Recipe, root: Path) -> None:
    """Do for a Go before 1.21 what later ones do with a toolchain module: names and modes that zips of modules lack."""
    module = f"golang.org/toolchain@v0.0.1-{recipe.go.toolchain}.{recipe.platform.replace('/', '-')}"
    fetched = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, check=False)
    if fetched.returncode:
        raise BuildError(f"go mod download {module}: {fetched.stderr.strip() or fetched.stdout.strip()}")
    fresh = root.parent / "scratch" / root.name
    shutil.copytree(json.loads(fetched.stdout)["Dir"], fresh)
    for path in fresh.rglob("*"):
        path.chmod(0o755 if path.is_dir() or "bin" in path.parts or "tool" in path.parts else 0o644)
        if path.name == "_go.mod":
            path.rename(path.with_name("go.mod"))
    fresh.replace(root)


def missing_packages() -> list[str]:
    """List the Debian packages that a build needs and that this machine lacks."""
    missing = [package for program, package in (("gcc", "gcc"), ("debootstrap", "debootstrap")) if not _has(program)]
    if _has("gcc"):
        seen = subprocess.run(
            ["gcc", "-E", "-"], input=b"#include <stdlib.h>\n#include <seccomp.h>\n", capture_output=True, check=False
        ).stderr
        missing += ["libc6-dev"] if b"stdlib.h" in seen else []
        missing += ["libseccomp-dev"] if b"seccomp.h" in seen else []
    else:
        missing += ["libc6-dev", "libseccomp-dev"]
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        missing += ["debian-archive-keyring"]
    return missing


def inputs(workshop: Workshop, build: Build) -> Any:
    """Collect all that a build's file is made from, for telling whether it must be made anew.

    Args:
        workshop: Where it is built.
        build: What.

    Returns:
        JSON data.
    """
    folder = workshop.recipe.directory / build.folder
    sources = sorted(p for p in folder.iterdir() if p.is_file()) if build.folder else []
    if build.kind == "c":
        sources = [workshop.recipe.directory / build.file]
    return {
        "build": asdict(build),
        "platform": workshop.recipe.platform,
        "go": workshop.go.version if build.kind in ("go", "module-file") else "",
        "sources": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sources},
    }


def make(workshop: Workshop, build: Build) -> Made:
    """Build one file, whole or not at all.

    Args:
        workshop: Where it is built.
        build: What.

    Returns:
        The file.

    Raises:
        BuildError: Its tool failed.
    """
    fresh = workshop.scratch / f"{build.name}.{os.getpid()}"
    if build.kind == "go":
        _compile_go(workshop, build, fresh)
    elif build.kind == "module-file":
        _copy_from_module(workshop, build, fresh)
    elif build.kind == "wheel":
        _take_from_wheel(workshop, build, fresh)
    elif build.kind == "c":
        source = str(workshop.recipe.directory / build.file)
        run(["gcc", "-Os", "-Wall", "-static", "-s", "-o", str(fresh), source], log=workshop.log(build.name))
    else:
        raise BuildError(f"builds.{build.name}: {build.kind!r} is no kind of build")
    return _put(workshop, build, fresh, _source(workshop.recipe, build))


def take_from_debian(workshop: Workshop, build: Build, root: Path, release: str) -> Made:
    """Take one file out of a Debian tree.

    Args:
        workshop: Where it goes.
        build: Which; its package must be in the tree.
        root: The tree.
        release: What the tree is, for example `Debian 12.15`.

    Returns:
        The file.
    """
    fresh = workshop.scratch / f"{build.name}.{os.getpid()}"
    shutil.copyfile(root / build.file, fresh)
    return _put(workshop, build, fresh, f"{release} package {build.package}")


def version(recipe: Recipe, build: Build, module: str = "") -> str:
    """Say a build's version: its own, or its module's in go.mod.

    Args:
        recipe: Where the build stands.
        build: Which.
        module: Another module of the same go.mod instead.

    Returns:
        For example `v1.34.10`; empty for what has none.

    Raises:
        BuildError: go.mod does not require the module.
    """
    if build.version and not module:
        return build.version
    wanted = module or build.module
    return _module_version(recipe.directory / build.folder / "go.mod", wanted) if wanted else ""


def _compile_go(workshop: Workshop, build: Build, target: Path) -> None:
    numbers = {"version": version(workshop.recipe, build)}
    numbers["number"] = numbers["version"].removeprefix("v")
    system, architecture = workshop.recipe.platform.split("/")
    command = [
        workshop.go.command,
        "build",
        "-trimpath",
        f"-tags={','.join(build.tags)}",
        f"-ldflags={' '.join(['-s', '-w', *(flag.format(**numbers) for flag in build.ldflags)])}",
        f"-o={target.resolve()}",
        build.package,
    ]
    environment = {
        **workshop.go.environment,
        "GOFLAGS": "-buildvcs=false -mod=readonly",
        "GOWORK": "off",
        "GOOS": system,
        "GOARCH": architecture,
        "CGO_ENABLED": "1" if build.cgo else "0",
    }
    folder = workshop.recipe.directory / build.folder
    run(command, log=workshop.log(build.name), cwd=folder, environment=environment)


def _copy_from_module(workshop: Workshop, build: Build, target: Path) -> None:
    found = subprocess.run(
        [workshop.go.command, "list", "-m", "-json", build.module],
        cwd=workshop.recipe.directory / build.folder,
        env={**os.environ, **workshop.go.environment, "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    directory = json.loads(found.stdout).get("Dir") if found.returncode == 0 else None
    if not directory:
        raise BuildError(f"builds.{build.name}: module {build.module} is not there: {found.stderr.strip()}")
    shutil.copyfile(Path(directory) / build.file, target)


def _take_from_wheel(workshop: Workshop, build: Build, target: Path) -> None:
    folder = workshop.scratch / f"{build.name}.wheel"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{build.package}=={build.version} --hash=sha256:{build.sha256}\n")
    installer: Sequence[str] = ["uv", "pip"] if _has("uv") else [sys.executable, "-m", "pip"]
    command = [*installer, "install", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    # From its own directory, so that this project's settings do not apply.
    run(
        [*command, "--target", str((folder / "files").resolve()), "-r", pinned.name],
        log=workshop.log(build.name),
        cwd=folder,
    )
    shutil.copyfile(folder / "files" / build.file, target)
    shutil.rmtree(folder)


def _put(workshop: Workshop, build: Build, fresh: Path, source: str) -> Made:
    output = workshop.output(build)
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh.chmod(0o755)
    fresh.replace(output)
    return Made(
        path=str(output),
        sha256=digest_of(output).removeprefix("sha256:"),
        version=version(workshop.recipe, build),
        source=source,
    )


def _source(recipe: Recipe, build: Build) -> str:
    if build.kind == "go" and not build.module:
        return f"images/{build.folder}"
    if build.kind in ("go", "module-file"):
        go_mod = recipe.directory / build.folder / "go.mod"
        named = [f"{module} {_module_version(go_mod, module)}" for module in (build.module, *build.also)]
        return f"Go module{'s' if build.also else ''} {', '.join(named)}"
    if build.kind == "wheel":
        return f"Python wheel {build.package} {build.version}"
    return f"images/{build.file}"


def _module_version(go_mod: Path, module: str) -> str:
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise BuildError(f"{go_mod}: does not require {module}: run `go get {module}@VERSION` there")
    return found.group(1)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def _has(program: str) -> bool:
    return shutil.which(program) is not None
