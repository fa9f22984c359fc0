"""The `meshstrap` command: the lab, the linter and the reports. Sites themselves are deployed by pyinfra."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from typing_extensions import override

from meshstrap.bundle import add as adding
from meshstrap.bundle import listing, lock, pull, remove, verify
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.platforms import normalize
from meshstrap.evidence import page
from meshstrap.lab import access, nodes
from meshstrap.lab import build as builder
from meshstrap.lab.directory import Lab, LabError, locate
from meshstrap.lab.record import read
from meshstrap.mesh.lint import NEWEST, lint_files


def _lab() -> Lab:
    return locate(os.environ, Path.cwd())


def _become(command: list[str]) -> None:
    """Hand this process over to a command, so that its terminal, signals and exit code are the caller's."""
    sys.stdout.flush()
    os.execvp(command[0], command)


class _Commands(click.Group):
    """Commands whose known troubles are one line and exit code 1, not a traceback."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (LabError, BundleError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
@click.version_option(package_name="meshstrap")
def main() -> None:
    """Bare machines without internet to a verified Kubernetes + Istio site."""


@main.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--istio-version", default=NEWEST, show_default=True, help="The Istio that will read them.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def lint(paths: tuple[Path, ...], istio_version: str, as_json: bool) -> None:
    """Find what Istio takes without a word and then does otherwise than it reads.

    FILEs are manifests, or directories of them, and are judged together, as what is to stand on one cluster. Exit code
    1 when something is found.
    """
    try:
        linted = lint_files(paths, istio_version)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--istio-version") from None
    if as_json:
        click.echo(json.dumps([asdict(each) for each in linted.findings], indent=1, ensure_ascii=False))
    else:
        for line in (line for each in linted.findings for line in each.lines):
            click.echo(line)
        counted = [_count(len(linted.findings), "finding"), _count(linted.objects, "object")]
        click.echo(f"{' in '.join(counted)} of {_count(linted.files, 'file')}, for Istio {istio_version}")
    if linted.findings:
        sys.exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@main.command("report")
@click.argument("directory", default="reports", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", default="report.html", show_default=True, type=click.Path(dir_okay=False, path_type=Path)
)
def report_(directory: Path, output: Path) -> None:
    """Make one HTML page of the evidence files in DIRECTORY (reports): verdicts, numbers, manifests, raw evidence.

    The page reads without network and files; of long lists in the evidence it has the beginning, and links the file.
    """
    if not directory.is_dir():
        raise click.ClickException(
            f"{directory}: no such directory; each proof writes there, for example deploys/verify.py"
        )
    folder = page.read(directory)
    files = Path(os.path.relpath(directory, output.parent)).as_posix()
    document = page.render(folder, directory.resolve().parent.name, files=files, made=datetime.now(UTC))
    output.write_text(document, encoding="utf-8")
    for line in folder.passed_over:
        click.echo(f"passed over: {line}", err=True)
    click.echo(f"{output}: {_count(len(folder.reports), 'proof')}")


@main.group()
def bundle() -> None:
    """Keep the images and programs that go onto the nodes."""


_in_bundle = click.option(
    "--bundle",
    "directory",
    envvar="MESHSTRAP_BUNDLE",
    default="images",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory of the bundle; also from MESHSTRAP_BUNDLE.",
)


def _platform(purpose: str) -> Callable[[Any], Any]:
    return click.option(
        "--platform",
        "platforms",
        multiple=True,
        metavar="OS/ARCH",
        callback=lambda _context, _option, given: tuple(map(normalize, given)),
        help=purpose,
    )


def _fail(problems: Sequence[str]) -> None:
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        sys.exit(1)


@bundle.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE|DIR...", type=click.Path(exists=True, path_type=Path))
@click.option("--as", "name", default="", metavar="REF", help="Call the one image of the one file this.")
@_platform("Take this platform only; repeatable.")
@click.option("--version", default="", help="Version of a program that does not tell its own.")
@click.option("--replace", is_flag=True, help="Replace what has other content under the same name.")
@click.option("--partial", is_flag=True, help="Of a file in which not all images are whole, add those that are.")
@_in_bundle
def add(
    paths: tuple[Path, ...],
    name: str,
    platforms: tuple[str, ...],
    version: str,
    replace: bool,
    partial: bool,
    directory: Path,
) -> None:
    """Add images and programs from files: what people have on their disks.

    Archives by docker save, nerdctl save, ctr images export and skopeo, OCI layouts, other bundles; release archives
    of Istio, containerd, runc and the CNI plugins, and programs by themselves. Plain, gzip, zstd, xz or bzip2. What
    is there already stays as it is.
    """
    wishes = adding.Wishes(name, platforms, version, replace, partial)
    _fail(adding.add(Bundle(directory), paths, wishes, click.echo))


@bundle.command("list")
@_in_bundle
def list_(directory: Path) -> None:
    """List what the bundle holds."""
    for line in listing.lines(Bundle(directory).read()):
        click.echo(line)


@bundle.command("verify")
@_in_bundle
def verify_(directory: Path) -> None:
    """Compare every file of the bundle with the lock."""
    _fail(verify.verify(Bundle(directory)))
    click.echo(f"{directory}: all is there and unaltered")


@bundle.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="REF|PROGRAM...")
@_platform("For this platform only; repeatable.")
@_in_bundle
def remove_(names: tuple[str, ...], platforms: tuple[str, ...], directory: Path) -> None:
    """Remove images and programs, and the blobs that nothing else needs."""
    remove.remove(Bundle(directory), names, platforms, click.echo)


@bundle.command()
@click.argument("other", metavar="LOCK|DIR", type=click.Path(exists=True, path_type=Path))
@_in_bundle
def diff(other: Path, directory: Path) -> None:
    """Compare the bundle with another's lock; the exit code is 1 where they differ.

    `+` is here alone, `-` in the other alone, `~` has other content here.
    """
    theirs = lock.read(Bundle(other).lock_file if other.is_dir() else other)
    lines = listing.difference(Bundle(directory).read(), theirs)
    for line in lines:
        click.echo(line)
    if lines:
        sys.exit(1)


@bundle.command("pull")
@click.argument("references", nargs=-1, metavar="[REF...]")
@_platform("For this platform; repeatable.")
@click.option("--replace", is_flag=True, help="Ask what the tag stands for now, and replace what is locked.")
@_in_bundle
def pull_(references: tuple[str, ...], platforms: tuple[str, ...], replace: bool, directory: Path) -> None:
    """Pull images from registries by skopeo; without REF, what the lock names and the store lacks.

    What is locked and there moves nothing. Registries, mirrors and credentials are skopeo's own configuration.
    """
    _fail(pull.pull(Bundle(directory), references, platforms, replace=replace, echo=click.echo))


@bundle.command("check")
@click.option(
    "--inventory", default="inventory.py", show_default=True, type=click.Path(path_type=Path), help="The site."
)
@click.option("--data", "pairs", multiple=True, metavar="KEY=VALUE", help="As in pyinfra; repeatable.")
@click.option("--scenario", "names", multiple=True, help="Check this scenario only, not all; repeatable.")
@_platform("The nodes'; repeatable.")
@click.option(
    "--bundle", "directory", envvar="MESHSTRAP_BUNDLE", type=click.Path(path_type=Path), help="Not the site's."
)
def check_(
    inventory: Path, pairs: tuple[str, ...], names: tuple[str, ...], platforms: tuple[str, ...], directory: Path | None
) -> None:
    """Check that everything the deploys apply starts from the bundle alone, on nodes without a way out.

    Renders Kubernetes' own images, the site's CNI, Istio with the sidecar that it injects, and each scenario, and
    names every object whose image is not in the bundle, or would be pulled all the same.
    """
    # Only this verb knows pyinfra, which patches the process when it is imported: first of all.
    from meshstrap.operations import inventory as inventories
    from meshstrap.operations import offline

    data = inventories.site_data(inventory, inventories.overrides(pairs))
    held = Bundle(directory or Path(str(data.get("bundle", "images"))))
    locked = held.read()
    parts = offline.parts(data, locked, held.store, names or None)
    faults = [text for _, text in offline.faults(parts, locked, platforms, str(held.lock_file))]
    for part in parts:
        if part.unchecked:
            click.echo(f"not checked: {part.name}: {part.unchecked}")
    programs = {program.name for program in locked.programs}
    if "kubeadm" not in programs:
        click.echo("not checked: Kubernetes: the bundle has no kubeadm: who made the cluster brings its own images")
    if "kubelet" not in programs and not platforms:
        click.echo("not checked: the nodes' platforms: name them with --platform")
    _fail(faults)
    count = len({use.reference for part in parts for use in part.uses})
    click.echo(f"{count} images are asked for, and {held.directory} holds them all")


@main.group()
def lab() -> None:
    """Try everything on the embedded lab: bare machines in containers."""


@lab.command()
def build() -> None:
    """Build the bundle and the bare node from package registries; what is there and unchanged stays."""
    builder.build(_lab().bundle.parent, Path.cwd(), click.echo)


@lab.command()
@click.option("--workers", type=click.IntRange(0, nodes.MOST_WORKERS), help="How many workers (a new lab: 1).")
def up(workers: int | None) -> None:
    """Bring the nodes up; what runs is left alone."""
    start = time.monotonic()
    record = nodes.up(_lab(), workers, click.echo)
    names = ", ".join(node.name for node in record.nodes)
    click.echo(f"up: {names} on {record.subnet} ({time.monotonic() - start:.1f} s)")


@lab.command()
def down() -> None:
    """Remove the nodes and all that they were; the bundle stays."""
    nodes.down(_lab(), click.echo)
    click.echo("down")


@lab.command()
def status() -> None:
    """Say what is there: engine, bundle, nodes."""
    for line in nodes.status(_lab()):
        click.echo(line)


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(node: str, command: tuple[str, ...]) -> None:
    """Open a shell on NODE, or run a command there."""
    here = _lab()
    _become(access.ssh(here, read(here.nodes_file).node(node), command))


class _Verbatim(click.Command):
    """A command whose words are another program's: `--` among them too, of which click would take the first."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--", *args])


@lab.command(cls=_Verbatim)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(arguments: tuple[str, ...]) -> None:
    """Run the lab cluster's kubectl."""
    here = _lab()
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    _become(access.kubectl(here, read(here.nodes_file), arguments, terminal=terminal))


@lab.command()
def kubeconfig() -> None:
    """Write a kubeconfig for people (.lab/kubeconfig) and print its path."""
    here = _lab()
    click.echo(access.write_kubeconfig(here, read(here.nodes_file)))
