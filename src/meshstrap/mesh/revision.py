"""Revisions of Istio: what their names look like, and what they make other names and labels be."""

from __future__ import annotations

import re
from collections.abc import Mapping

DEFAULT = "default"

# The revision is part of object names and the value of a label.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,54}[a-z0-9])?")


def check(value: object) -> str:
    """Give a revision's name.

    Raises:
        ValueError: it is none: a number from the command line, or a text with other characters.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be the name of a revision, such as 'default' or '1-31', not {value!r}")
    if not _NAME.fullmatch(value):
        raise ValueError(f"must be of small letters, digits and dashes, such as 'default' or '1-31', not {value!r}")
    return value


def injection_labels(revision: str) -> dict[str, str | None]:
    """Tell the labels by which a namespace's pods get a revision's sidecar: one of the two, never both.

    Source: istio/istio manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml.

    Args:
        revision: its name; empty for no injection.

    Returns:
        Both labels, None for one that must not be there.
    """
    return {
        "istio-injection": "enabled" if revision == DEFAULT else None,
        "istio.io/rev": revision if revision not in ("", DEFAULT) else None,
    }


def injected(labels: Mapping[str, str]) -> str:
    """Tell which revision's sidecar a namespace's labels ask for; empty for none. Of both labels the older one wins.

    Source: istio/istio manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml.
    """
    if "istio-injection" in labels:
        return DEFAULT if labels["istio-injection"] == "enabled" else ""
    return labels.get("istio.io/rev", "")


def mesh_config(revision: str) -> str:
    """Name the ConfigMap of istio-system that holds a revision's mesh config."""
    return "istio" if revision == DEFAULT else f"istio-{revision}"


def istiod(revision: str) -> str:
    """Name the Service of istio-system behind which a revision's istiod is."""
    return "istiod" if revision == DEFAULT else f"istiod-{revision}"
