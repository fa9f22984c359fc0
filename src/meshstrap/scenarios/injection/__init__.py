"""Sidecars: who has one, who has none, and what requests between them show of it."""

from meshstrap.scenarios.injection.scenario import Injection

SCENARIO = Injection()
