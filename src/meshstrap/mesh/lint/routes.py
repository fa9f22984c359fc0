"""Rules of a VirtualService alone: weights, faults, timeouts and retries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshstrap.mesh.lint.finding import NETWORKING, Declared, Finding, Object, Path, at, items, seconds, whole

# From here on weights are taken as ratios; before, the webhook refuses a sum other than 100.
RELATIVE_WEIGHTS = (1, 15)
# From here on the default conditions of a retry have no status code any more, not even 503.
NO_503_BY_DEFAULT = (1, 24)
# What makes Envoy retry an attempt that ran into its per-try timeout; it counts as a reset.
TIMEOUT_CONDITIONS = {"5xx", "gateway-error", "reset"}

Rule = tuple[int, Object, Path]


def weights(declared: Declared) -> Iterator[Finding]:
    """Find weights that do not sum to 100."""
    for protocol in ("http", "tls", "tcp"):
        for index, rule, path in _rules(declared, protocol):
            given = [destination.get("weight") for _, destination in items(rule.get("route"))]
            shares = [whole(0 if weight is None else weight) for weight in given]
            if any(share is None or share < 0 for share in shares):
                continue
            numbers = [share or 0 for share in shares]
            total = sum(numbers)
            # A sum of 0: a single destination gets everything, and the webhook refuses several.
            if total in (0, 100):
                continue
            named = " and ".join(str(share) for share in numbers)
            if len(numbers) == 1:
                what = f"the only destination gets everything, whatever its weight of {total} says"
            elif declared.istio < RELATIVE_WEIGHTS:
                what = f"the weights {named} sum to {total}: Istio's webhook refuses the object"
            else:
                really = " and ".join(f"{100 * share / total:.1f} %" for share in numbers)
                what = f"the weights {named} sum to {total} and are taken as ratios: the destinations get {really}"
            yield declared.finding(
                "weights",
                index,
                (*path, "route"),
                what,
                "weights that sum to 100",
                "Istio 1.15 made weights relative, 50 and 30 were measured as 62 and 38 % (K9)",
            )


def fault_beside_router(declared: Declared) -> Iterator[Finding]:
    """Find a fault in one rule with the timeout or the retries that it is to try."""
    for index, rule, path in _rules(declared, "http"):
        fault = rule.get("fault")
        if not isinstance(fault, Mapping) or not fault:
            continue
        if _acts(seconds(rule.get("timeout"))):
            yield declared.finding(
                "fault-beside-timeout",
                index,
                (*path, "timeout"),
                "the fault is injected before the router, where the timeout's clock runs: a delay is never cut short",
                "timeout and fault in the VirtualServices of two hops: the timeout on the caller's, the fault on that"
                " of the service behind it",
                "Istio's VirtualService reference (HTTPRoute.fault), istio/istio#13705; seen: 200 after the whole delay"
                " (T3)",
            )
        if _acts(whole(at(rule, "retries", "attempts"))):
            yield declared.finding(
                "fault-beside-retries",
                index,
                (*path, "retries"),
                "the fault is injected before the router, which retries: an injected abort is never retried",
                "retries and fault in the VirtualServices of two hops: the retries on the caller's, the fault on that"
                " of the service behind it",
                "Istio's VirtualService reference (HTTPRoute.fault); seen: one attempt, 503 FI (R3)",
            )


def fault_without_percentage(declared: Declared) -> Iterator[Finding]:
    """Find a fault that is injected into no request."""
    for index, rule, path in _rules(declared, "http"):
        for kind in ("delay", "abort"):
            fault = at(rule, "fault", kind)
            # `percent` is the older form, of delays alone.
            if not isinstance(fault, Mapping) or (kind == "delay" and _acts(whole(fault.get("percent")))):
                continue
            if at(fault, "percentage", "value") is None:
                yield declared.finding(
                    "fault-percentage",
                    index,
                    (*path, "fault", kind),
                    f"without a percentage the {kind} is injected into no request",
                    "percentage: {value: 100}",
                    "istio/istio pilot/pkg/networking/core/route/route.go, TranslateFault",
                )


def retries_without_condition(declared: Declared) -> Iterator[Finding]:
    """Find retries that do not say on what."""
    if declared.istio < NO_503_BY_DEFAULT:
        return
    for index, rule, path in _rules(declared, "http"):
        attempts = whole(at(rule, "retries", "attempts"))
        if attempts is not None and _acts(attempts) and not at(rule, "retries", "retryOn"):
            yield declared.finding(
                "retry-on",
                index,
                (*path, "retries"),
                f"attempts: {attempts} without retryOn retries failed connections and gRPC's unavailable, but no HTTP"
                " status, since Istio 1.24 not even 503: such a request is tried once",
                "retryOn with what is to be retried, such as gateway-error (502, 503, 504)",
                "Istio 1.24 release notes (EXCLUDE_UNSAFE_503_FROM_DEFAULT_RETRY); seen: one attempt (R1)",
            )


def per_try_timeout(declared: Declared) -> Iterator[Finding]:
    """Find a per-try timeout after which nothing is tried again."""
    for index, rule, path in _rules(declared, "http"):
        retries = rule.get("retries")
        limit, timeout = seconds(at(retries, "perTryTimeout")), seconds(rule.get("timeout"))
        if not isinstance(retries, Mapping) or not limit or not _acts(whole(retries.get("attempts"))):
            continue
        text, where = retries["perTryTimeout"], (*path, "retries", "perTryTimeout")
        conditions = retries.get("retryOn")
        if timeout and limit >= timeout:
            yield declared.finding(
                "per-try-timeout",
                index,
                where,
                f"Envoy passes over a perTryTimeout ({text}) that is not shorter than the timeout ({rule['timeout']}):"
                " a slow attempt is not tried again",
                "a timeout of at least (attempts + 1) times perTryTimeout",
                "envoyproxy/envoy source/common/router/router.cc, FilterUtility::finalTimeout (R2)",
            )
        elif not TIMEOUT_CONDITIONS & _conditions(conditions):
            yield declared.finding(
                "per-try-timeout",
                index,
                where,
                f"an attempt that runs into perTryTimeout is not retried on {conditions or 'the default conditions'}:"
                f" it is a timeout of {text} for the whole request",
                "retryOn with gateway-error (or 5xx, reset) in it",
                "envoyproxy/envoy source/common/router/retry_state_impl.cc, wouldRetryFromReset; istio/istio#55748;"
                " seen: one attempt, 504 UT (R2)",
            )


def _rules(declared: Declared, protocol: str) -> Iterator[Rule]:
    """Go through the rules of all VirtualServices for a protocol: object's index, rule, path of the rule."""
    for index, item in declared.of("VirtualService", NETWORKING):
        for number, rule in items(at(item, "spec", protocol)):
            yield index, rule, ("spec", protocol, number)


def _acts(number: float | None) -> bool:
    """Tell whether a number switches something on: 0 is how Istio's fields say off."""
    return number is not None and number > 0


def _conditions(retry_on: object) -> set[str]:
    return {part.strip() for part in retry_on.split(",")} if isinstance(retry_on, str) else set()
