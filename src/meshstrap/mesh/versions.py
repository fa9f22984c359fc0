"""Which Istio is supported on which Kubernetes: the published table as data, and the rule that reads it.

Source: endoflife.date products/istio.md @a70eca3 (itself from istio.io's supported-releases page); 1.13 to 1.22
cross-checked with istio.io data/compatibility/supportStatus.yml @0a759c7. The minimum is what istioctl itself warns
of (`MinK8SVersion` in istio/istio pkg/kube).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

Version = tuple[int, int]


class Support(StrEnum):
    """What the table says of a pair: a supported one, one outside its row, or an Istio without a row."""

    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Row:
    """The Kubernetes minors that one Istio minor supports; both None where nothing was published."""

    oldest: Version | None
    newest: Version | None
    minimum: Version | None = None


@dataclass(frozen=True)
class Pair:
    """What is to be said of an Istio on a Kubernetes: the state and one sentence that a person can act on."""

    support: Support
    message: str


TABLE: dict[Version, Row] = {
    (1, 10): Row((1, 18), (1, 21), (1, 17)),
    (1, 11): Row((1, 18), (1, 22)),
    (1, 12): Row((1, 19), (1, 22)),
    (1, 13): Row((1, 20), (1, 23), (1, 19)),
    (1, 14): Row((1, 21), (1, 24)),
    (1, 15): Row((1, 22), (1, 25), (1, 19)),
    (1, 16): Row((1, 22), (1, 25), (1, 19)),
    (1, 17): Row((1, 23), (1, 26), (1, 23)),
    (1, 18): Row((1, 24), (1, 27)),
    (1, 19): Row((1, 25), (1, 28)),
    (1, 20): Row((1, 25), (1, 29), (1, 25)),
    (1, 21): Row((1, 26), (1, 29)),
    (1, 22): Row((1, 27), (1, 30), (1, 26)),
    (1, 23): Row((1, 27), (1, 30)),
    (1, 24): Row((1, 28), (1, 31), (1, 28)),
    (1, 25): Row((1, 29), (1, 32)),
    (1, 26): Row((1, 29), (1, 33), (1, 29)),
    (1, 27): Row((1, 29), (1, 33), (1, 29)),
    (1, 28): Row((1, 30), (1, 34), (1, 29)),
    (1, 29): Row((1, 31), (1, 35)),
    (1, 30): Row((1, 32), (1, 36), (1, 32)),
    # No row was published when this was written; release-1.31's rc.0 has MinK8SVersion 1.32.
    (1, 31): Row(None, None, (1, 32)),
}


def parse(text: str) -> Version:
    """Read major and minor of a version such as `v1.34.10`, `1.31.0-rc.0` or `1.20+`.

    Raises:
        ValueError: the text does not begin with a version, or is none: `--data istio_version=1.31` gives a number.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no version but a {type(text).__name__}: write it with its patch version, 1.31.0")
    found = re.match(r"v?(\d+)\.(\d+)(?![\d])", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no version: expected a form such as 1.31.0")
    return int(found[1]), int(found[2])


def check(istio: str, kubernetes: str) -> Pair:
    """Say whether an Istio version may stand on a Kubernetes version.

    Args:
        istio: Istio's version, such as `1.31.0`.
        kubernetes: the API server's version, such as `v1.34.10`.

    Returns:
        SUPPORTED; UNSUPPORTED, with the row and the Istio versions that do support this Kubernetes; or UNKNOWN, with
        the minimum that istioctl itself warns of.

    Raises:
        ValueError: a text that is no version.
    """
    mesh, cluster = parse(istio), parse(kubernetes)
    row = TABLE.get(mesh, Row(None, None))
    what = f"Istio {_text(mesh)} on Kubernetes {_text(cluster)}"
    if row.oldest is None or row.newest is None:
        return Pair(Support.UNKNOWN, f"{what}: no supported range is known for this Istio; {_minimum(row, cluster)}")
    span = f"Istio {_text(mesh)} supports Kubernetes {_text(row.oldest)} to {_text(row.newest)}"
    if row.oldest <= cluster <= row.newest:
        return Pair(Support.SUPPORTED, f"{what} is supported ({span})")
    return Pair(Support.UNSUPPORTED, f"{what} is not supported: {span}; {_alternatives(cluster)}")


def _minimum(row: Row, cluster: Version) -> str:
    if row.minimum is None:
        return "neither is the minimum that its istioctl warns of"
    if cluster < row.minimum:
        return f"its istioctl warns below Kubernetes {_text(row.minimum)}, and this is below"
    return f"its istioctl warns only below Kubernetes {_text(row.minimum)}"


def _alternatives(cluster: Version) -> str:
    fitting = [
        _text(istio)
        for istio, row in TABLE.items()
        if row.oldest is not None and row.newest is not None and row.oldest <= cluster <= row.newest
    ]
    if not fitting:
        return f"no Istio known here supports Kubernetes {_text(cluster)}"
    return f"Kubernetes {_text(cluster)} is supported by Istio {', '.join(fitting)}"


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
