"""The evidence file of a run: one JSON document under `reports/`, written whole or not at all, secrets masked."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MASK = "***"

# Values under these keys are masked whatever they hold. Kubernetes names them so in Secrets, kubeconfigs and tokens.
_SECRET_KEYS = re.compile(
    r"^(token|password|passphrase|authorization|cookie|set-cookie|private[-_]?key|secret|"
    r"client-key-data|client-certificate-data|certificate-authority-data|certificate-?key|bearer)$",
    re.IGNORECASE,
)
# Texts that are secrets wherever they stand: PEM private keys, JSON web tokens, kubeadm tokens, bearer headers.
_SECRET_TEXTS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|\b[a-z0-9]{6}\.[a-z0-9]{16}\b"
    r"|(?<=Bearer )\S+",
    re.DOTALL,
)


def mask(value: Any) -> Any:
    """Copy data without its secrets: Secret objects' contents, values under telling keys, keys and tokens in texts.

    Args:
        value: JSON-like data; mappings, lists and tuples are copied, never changed.

    Returns:
        The copy, with each secret replaced by `***`.
    """
    if isinstance(value, Mapping):
        if value.get("kind") == "Secret":
            value = {
                key: {name: MASK for name in part} if key in ("data", "stringData") and part else part
                for key, part in value.items()
            }
        return {
            str(key): MASK if isinstance(part, str) and _SECRET_KEYS.match(str(key)) else mask(part)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask(part) for part in value]
    if isinstance(value, str):
        return _SECRET_TEXTS.sub(MASK, value)
    return value


def write(directory: Path, scenario: str, content: Mapping[str, Any], *, at: datetime) -> Path:
    """Write one run's evidence as `<UTC time>-<scenario>.json`, readable by its owner only.

    The file appears under its name only when it is complete and on disk, so a run that is killed leaves none that
    is half written.

    Args:
        directory: where reports are kept; created when missing.
        scenario: the scenario's name, used in the file name.
        content: JSON-like data: declared objects, versions, digests, raw observations, verdict.
        at: when the run began, with its time zone.

    Returns:
        The path of the file.

    Raises:
        OSError: the directory or file cannot be written.
        ValueError: `at` has no time zone, or the name is no plain file name.
    """
    if at.tzinfo is None:
        raise ValueError("the time of a report needs a time zone")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", scenario):
        raise ValueError(f"{scenario!r} cannot name a report")
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(mask(content), indent=1, ensure_ascii=False, default=str) + "\n"
    stem = f"{at.astimezone(UTC):%Y-%m-%dT%H%M%S.%fZ}-{scenario}"
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=f".{stem}.", suffix=".part")  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        path = directory / f"{stem}.json"
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
