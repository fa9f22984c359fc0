"""Pods that come up, as after a restart of their node: a proof waits for them before it calls anything missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshstrap.kube import wait
from meshstrap.scenarios.site import Site

Pod = Mapping[str, Any]

# A sidecar or gateway whose node restarts was seen ready after 10 to 40 s.
RESTART_SECONDS = 60.0
PAUSE = 1.0


def starting(pods: Iterable[Pod]) -> list[str]:
    """Say of each pod that is not ready, and may become so by waiting, how far it is. Pure.

    Args:
        pods: Pods as the API server gives them, with kind and apiVersion.
    """
    return [
        f"Pod {pod['metadata']['namespace']}/{pod['metadata']['name']} is starting ({found.reason})"
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and not (found := wait.state(pod)).ready
        and not (found.failed or wait.pod_trouble(pod) or wait.crashed(pod) or wait.unschedulable_reason(pod))
    ]


def awaited(look: Callable[[], list[str]], pods: Callable[[], Iterable[Pod]], site: Site) -> list[str]:
    """Look for what is missing, and while pods start, again: for at most 60 s.

    Args:
        look: gives a sentence for each thing that is missing.
        pods: gives the pods that may bring it.
        site: whose clock and progress are used.

    Returns:
        What is missing at the end; in front of it the pods that still start, since they are the reason.
    """
    deadline = site.clock.seconds() + RESTART_SECONDS
    while missing := look():
        coming = starting(pods())
        if not coming:
            return missing
        if site.clock.seconds() >= deadline:
            return [*(f"{each}, since over {RESTART_SECONDS:g} s; kubectl describe it" for each in coming), *missing]
        site.progress(f"waiting: {coming[0]}")
        site.clock.sleep(PAUSE)
    return []
