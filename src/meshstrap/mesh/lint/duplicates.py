"""The rule of an object that is declared twice, in two files of one site."""

from __future__ import annotations

from collections.abc import Iterator

from meshstrap.kube.ref import Ref
from meshstrap.mesh.lint.finding import Declared, Finding, Path, at

# Their selector says which pods are theirs, and cannot change on the standing object.
FIXED_SELECTOR = {"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"}


def declared_twice(declared: Declared) -> Iterator[Finding]:
    """Find an object that is declared twice: there will be only one."""
    first: dict[tuple[str, str, str, str], int] = {}
    for index, item in enumerate(declared.objects):
        ref = Ref.of(item)
        other = first.setdefault(ref.identity, index)
        if other == index:
            continue
        path: Path = ("metadata", "name")
        what = "is declared twice: there is only one object of a name, and the second declaration replaces the first"
        selectors = [at(each, "spec", "selector") for each in (declared.objects[other], item)]
        if ref.kind in FIXED_SELECTOR and selectors[0] != selectors[1]:
            what = (
                f"is declared twice, with two selectors: a {ref.kind}'s selector cannot change, so the API server"
                " refuses the second, and its pods never exist"
            )
        instead = "a name of its own for each; forms to choose from are linted apart, not together"
        yield declared.finding(
            "declared-twice", index, path, what, instead, "Kubernetes API, names and selectors (K1, R6)", other
        )
