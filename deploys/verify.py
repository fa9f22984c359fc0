"""Proof of every scenario that stands, applying nothing: the exit code says whether the site does what it claims.

`--data scenario=canary` proves that one alone, and fails where it does not stand.
"""

from pyinfra import host

from meshstrap.operations import scenario

if "leader" in host.groups:
    scenario.proof("bookinfo", if_applied=True, name="Bookinfo: proof of the page")
    scenario.proof("canary", if_applied=True, name="Canary: proof of the split")
    scenario.proof("circuit_breaker", if_applied=True, name="Circuit breaker: proof of the overflow")
    scenario.proof("fault", if_applied=True, name="Fault: proof of the faults")
    scenario.proof("injection", if_applied=True, name="Injection: proof by pods and requests")
    scenario.proof("mirror", if_applied=True, name="Mirror: proof of the copies")
    scenario.proof("outlier_ejection", if_applied=True, name="Outlier ejection: proof of ejection and return")
    scenario.proof("retry", if_applied=True, name="Retry: proof of the attempts")
    scenario.proof("timeout", if_applied=True, name="Timeout: proof of the timeout")
    scenario.verdicts(name="Verdicts")
