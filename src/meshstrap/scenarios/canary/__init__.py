"""The tutorial's canary release, corrected: `manifests.yaml`, the claim and its proof."""

from meshstrap.scenarios.canary.scenario import Canary

SCENARIO = Canary()
