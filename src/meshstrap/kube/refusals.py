"""Refusals of a Pod, told apart by whether waiting helps; from the words in which a controller passes them on."""

from __future__ import annotations

import math
import re

# What passes by itself: what a new namespace gets a moment late (its default account), a quota that nobody has counted
# yet, admission that starts. Sources: k8s.io/kubernetes plugin/pkg/admission/serviceaccount; k8s.io/apiserver
# pkg/admission/plugin/resourcequota and pkg/admission/initializer (v0.34).
_PASSES = re.compile(
    r"error looking up service account|no API token found for service account|status unknown for quota"
    r"|not yet ready to handle request|caches not synchronized|resource quota evaluat|failed to call(?:ing)? webhook"
)
# What passes when something goes or comes: other Pods of the quota, a class that is named.
_MAY_PASS = re.compile(r"exceeded quota|not found|was found|is being terminated|try again")

_QUOTA = re.compile(r"requested: ([^ ]+), used: [^ ]+, limited: ([^ ;]+)")
_AMOUNT = re.compile(r"(?P<name>[^=]+)=(?P<number>[0-9.]+(?:[eE][-+]?[0-9]+)?)(?P<unit>[numkMGTPE]?|[KMGTPE]i)")
_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS |= {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTPE", 1)}


def final(message: str) -> bool:
    """Whether a refusal stands however long one waits.

    Args:
        message: the API server's words, as the controller repeats them in a condition or an event.
    """
    if _PASSES.search(message):
        return False
    quotas = _QUOTA.findall(message)
    if quotas:
        # Not even alone would it fit.
        return any(
            amount > _amounts(limited).get(name, math.inf)
            for requested, limited in quotas
            for name, amount in _amounts(requested).items()
        )
    return "is forbidden" in message and not _MAY_PASS.search(message)


def may_pass(message: str) -> bool:
    """Whether a refusal passes only if something else goes or comes: waiting longer than a moment is for nothing."""
    return "is forbidden" in message and not _PASSES.search(message)


def _amounts(text: str) -> dict[str, float]:
    """Return what a quota's message lists, as in `pods=1,requests.cpu=500m`; without what cannot be read."""
    found = [_AMOUNT.fullmatch(part) for part in text.split(",")]
    return {each["name"]: float(each["number"]) * _UNITS[each["unit"]] for each in found if each}
