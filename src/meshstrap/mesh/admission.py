"""What to do where a webhook is away that must admit objects: Istio's own comes back with istio.py."""

from __future__ import annotations

from collections.abc import Iterable

from meshstrap.kube.webhooks import Away

# As operations/istio.py names the sets of its objects, one a revision.
ISTIO = "istio"


def next_steps(found: Iterable[Away]) -> list[str]:
    """Say of each webhook that is away for good what is missing and what brings it back, a sentence each. Pure."""
    return [f"{away.why}; {_remedy(away)}" for away in found]


def _remedy(away: Away) -> str:
    # Istio's charts leave out the replicas of what they autoscale, so istio.py would not put them back.
    if not away.autoscaled and (away.owner == ISTIO or away.owner.startswith(f"{ISTIO}-")):
        return "run deploys/istio.py, which brings it back"
    if away.workload:
        kind, name = away.workload.kind.lower(), away.workload.name
        return f"scale it up: kubectl scale {kind}/{name} -n {away.workload.namespace} --replicas=1"
    return "bring it back, or take its webhook configuration away"
