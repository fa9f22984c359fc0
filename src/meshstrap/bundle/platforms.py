"""Platforms: one form of each, `os/architecture`, with a variant where runtimes tell it apart."""

from __future__ import annotations

import re

from meshstrap.bundle.errors import BundleError

_PART = re.compile(r"[A-Za-z0-9_.-]+")
# As containerd has them (containerd/platforms, database.go): what is one platform to it is one here.
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}
_VARIANTS = {
    ("amd64", "v1"): "",
    ("arm64", "8"): "",
    ("arm64", "v8"): "",
    ("arm", ""): "v7",
    **{("arm", number): f"v{number}" for number in "5678"},
}


def is_part(value: str) -> bool:
    """Tell whether a text may be an os, an architecture or a variant."""
    return bool(_PART.fullmatch(value))


def normalize(platform: str) -> str:
    """Give a platform its one form, `linux/arm64` for `linux/aarch64/v8`.

    Args:
        platform: `os/architecture`, or with a variant, as configs, people and machines write it.

    Returns:
        Its one form.

    Raises:
        BundleError: It is none.
    """
    parts = platform.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(is_part(part) for part in parts):
        raise BundleError(f"{platform!r} is no platform: write os/architecture, for example linux/amd64")
    system, architecture, variant = (*parts, "")[:3]
    architecture = _ARCHITECTURES.get(architecture, architecture)
    variant = _VARIANTS.get((architecture, variant), variant)
    return "/".join(part for part in (system, architecture, variant) if part)
