"""Find in manifests what Istio accepts without a word and then does otherwise than it reads.

Every rule here is of a mistake that passes the API server, Istio's webhook and `istioctl analyze`; what these say is
left to them. Judged from the manifests alone: where a rule needs an object that is not given (the Deployment behind a
DestinationRule's host), it says nothing rather than guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshstrap.kube import manifests
from meshstrap.kube.manifests import ManifestError, Placed
from meshstrap.kube.ref import Ref
from meshstrap.mesh import versions
from meshstrap.mesh.lint import destinations, duplicates, jobs, outliers, ports, reach, revisions, routes, shared_hosts
from meshstrap.mesh.lint.finding import Declared, Finding, at

RULES = (
    duplicates.declared_twice,
    routes.weights,
    routes.fault_beside_router,
    routes.fault_without_percentage,
    routes.retries_without_condition,
    routes.per_try_timeout,
    shared_hosts.shared_hosts,
    destinations.shared_destinations,
    destinations.sticky_weights,
    reach.gateway_only,
    reach.hidden_hosts,
    revisions.overruled_revision,
    outliers.max_ejection_percent,
    outliers.gateway_errors,
    outliers.self_ejection,
    ports.undeclared_protocol,
    ports.opaque_protocol,
    ports.opaque_entry,
    jobs.job_ttl,
)

# Names the rules, with commas between them, that an object breaks on purpose.
ACCEPT = "meshstrap.dev/lint-accept"

NEWEST = ".".join(str(part) for part in max(versions.TABLE))


@dataclass(frozen=True)
class Located:
    """A finding with its place, or a file that cannot be read as manifests (rule `manifest`, no object).

    Args:
        file: the file's name.
        document: the document in it, from 1; 0 when the file could not be read at all.
        line: the field's line, from 1; 0 as above.
        object: the object as Kind/namespace/name.
        field: the field, such as `.spec.http[0].route`.
        rule: as in `Finding`, and so what, instead and source.
        also: file and line of the other object that it is about; empty for none.
    """

    file: str
    document: int
    line: int
    object: str
    field: str
    rule: str
    what: str
    instead: str
    source: str
    also: str = ""

    @property
    def lines(self) -> list[str]:
        """The lines for the terminal; the first one begins with file:line, for editors to jump to."""
        named = f", {self.object} {self.field}" if self.object else ""
        parts = [
            ("", self.what),
            ("also: ", self.also),
            ("instead: ", self.instead),
            ("source: ", self.source),
        ]
        return [
            f"{self.file}:{self.line}: document {self.document}{named} [{self.rule}]",
            *(f"    {name}{text}" for name, text in parts if text),
        ]


@dataclass(frozen=True)
class Linted:
    """What was looked at and what was found: number of files and objects, and the findings in their order."""

    files: int
    objects: int
    findings: tuple[Located, ...]


def lint(objects: Iterable[Mapping[str, Any]], istio: str) -> list[Finding]:
    """Look through objects that are to stand together on one cluster.

    Args:
        objects: as `kube.manifests` gives them; several rules look at more than one of them.
        istio: the site's version of Istio, such as `1.31.0`; several rules differ by it.

    Returns:
        The findings, in the order of the objects; without those that an object's annotation
        `meshstrap.dev/lint-accept` names.

    Raises:
        ValueError: `istio` is no version.
    """
    declared = Declared(list(objects), versions.parse(istio))
    found = [finding for rule in RULES for finding in rule(declared)]
    wanted = [finding for finding in found if finding.rule not in _accepted(declared.objects[finding.index])]
    return sorted(wanted, key=lambda finding: finding.index)


def lint_files(paths: Iterable[Path], istio: str) -> Linted:
    """Look through manifests' files, all of them together as what is to stand on one cluster.

    Args:
        paths: files, and directories whose *.yaml, *.yml and *.json files are read.
        istio: as in `lint`.

    Returns:
        The findings; a file that is no manifest is one, and what stands in it before the mistake is looked at too.

    Raises:
        ValueError: `istio` is no version.
    """
    files: list[Path] = []
    placed: list[Placed] = []
    broken: list[ManifestError] = []
    for path in paths:
        try:
            files += manifests.files(path)
        except ManifestError as error:
            broken.append(error)
    # A file that is named twice, or named beside its directory, is read once.
    for file in dict.fromkeys(files):
        try:
            for each in manifests.read(file):
                placed.append(each)
        except ManifestError as error:
            broken.append(error)
    found = [_located(placed, finding) for finding in lint([each.item for each in placed], istio)]
    return Linted(len(files), len(placed), (*map(_unreadable, broken), *found))


def _located(placed: list[Placed], finding: Finding) -> Located:
    here = placed[finding.index]
    other = placed[finding.other] if finding.other is not None else None
    return Located(
        here.file,
        here.document,
        here.line(finding.path),
        str(finding.ref),
        finding.field,
        finding.rule,
        finding.what,
        finding.instead,
        finding.source,
        f"{other.file}:{other.line()}: {Ref.of(other.item)}" if other else "",
    )


def _unreadable(error: ManifestError) -> Located:
    return Located(error.file, error.document, error.line, "", "", "manifest", error.what, "", "")


def _accepted(item: Mapping[str, Any]) -> set[str]:
    named = at(item, "metadata", "annotations", ACCEPT)
    return {name.strip() for name in named.split(",")} if isinstance(named, str) else set()
