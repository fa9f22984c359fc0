"""The circuit breaker's overflow: one connection is allowed, ten ask at once, and most are refused with 503 UO."""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("circuit_breaker", force=host.data.force, name="Circuit breaker: one connection to httpbin")
    scenario.proof("circuit_breaker", name="Circuit breaker: proof of the overflow")
