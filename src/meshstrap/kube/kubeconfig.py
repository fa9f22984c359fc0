"""Reading an ordinary kubeconfig, for people who reach the API server without ssh to the control plane."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from meshstrap.kube.errors import KubeError

_PATHS = (
    ("clusters", "cluster", ("certificate-authority",)),
    ("users", "user", ("client-certificate", "client-key", "tokenFile")),
)


def read(path: Path | None = None) -> dict[str, Any]:
    """Return a kubeconfig for `connect`.

    Args:
        path: the file; if None, the files that KUBECONFIG names (the first to define a name wins, as in kubectl), else
            ~/.kube/config.

    Raises KubeError naming the file that is missing or malformed; nothing of its content.
    """
    if path is not None:
        paths = [path]
    elif named := os.environ.get("KUBECONFIG"):
        paths = [Path(part) for part in named.split(os.pathsep) if part]
    else:
        paths = [Path.home() / ".kube" / "config"]
    whole: dict[str, Any] = {}
    for document in [_document(file) for file in paths if file.exists() or len(paths) == 1]:
        whole.setdefault("current-context", document.get("current-context") or None)
        whole["current-context"] = whole["current-context"] or document.get("current-context")
        for group in ("clusters", "contexts", "users"):
            whole.setdefault(group, []).extend(document.get(group) or [])
    if not whole:
        raise KubeError(f"no kubeconfig: none of {', '.join(map(str, paths))} is there")
    return whole


def _document(file: Path) -> dict[str, Any]:
    """Return one file's content, with the paths in it, which are relative to it, made whole."""
    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        raise KubeError(f"kubeconfig {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's own words would quote keys.
        raise KubeError(f"kubeconfig {file} is no YAML") from None
    if not isinstance(document, dict):
        raise KubeError(f"kubeconfig {file} holds no mapping")
    for group, item, keys in _PATHS:
        entries = document.get(group) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise KubeError(f"kubeconfig {file}: {group} is no list of mappings")
        for entry in entries:
            settings = entry.get(item) or {}
            for key in keys:
                if settings.get(key):
                    settings[key] = str(file.parent / settings[key])
            plugin = settings.get("exec") or {}
            # A bare name is looked for in PATH.
            if "/" in (plugin.get("command") or ""):
                plugin["command"] = str(file.parent / plugin["command"])
    return document
