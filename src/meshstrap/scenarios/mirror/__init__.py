"""Mirroring: one version answers, the other gets a copy of every request."""

from meshstrap.scenarios.mirror.scenario import Mirror

SCENARIO = Mirror()
