"""The scenarios off the cluster, with their namespaces; Istio and the cluster stay.

`--data scenario=canary` takes that one alone.
"""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("bookinfo", present=False, name="Bookinfo: gone")
    scenario.manifests("canary", present=False, name="Canary: gone")
    scenario.manifests("circuit_breaker", present=False, name="Circuit breaker: gone")
    scenario.manifests("fault", present=False, name="Fault: gone")
    scenario.manifests("injection", present=False, name="Injection: gone")
    scenario.manifests("mirror", present=False, name="Mirror: gone")
    scenario.manifests("outlier_ejection", present=False, name="Outlier ejection: gone")
    scenario.manifests("retry", present=False, name="Retry: gone")
    scenario.manifests("timeout", present=False, name="Timeout: gone")
