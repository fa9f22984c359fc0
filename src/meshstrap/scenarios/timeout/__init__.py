"""A timeout in the caller's proxy against a delay two hops away."""

from meshstrap.scenarios.timeout.scenario import Timeout

SCENARIO = Timeout()
