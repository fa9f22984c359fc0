"""Faults that the caller's proxy injects: aborts and delays, of all requests and of half of them."""

from meshstrap.scenarios.fault.scenario import Fault

SCENARIO = Fault()
