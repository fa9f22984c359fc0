"""Retries in the caller's proxy against an abort two hops away."""

from meshstrap.scenarios.retry.scenario import Retry

SCENARIO = Retry()
