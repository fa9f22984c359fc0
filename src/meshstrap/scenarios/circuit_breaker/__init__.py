"""The tutorial's circuit breaker, its overflow: `manifests.yaml`, the claim and its proof."""

from meshstrap.scenarios.circuit_breaker.scenario import CircuitBreaker

SCENARIO = CircuitBreaker()
