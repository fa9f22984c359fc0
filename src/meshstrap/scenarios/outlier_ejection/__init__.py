"""The tutorial's circuit breaker, its ejection: `manifests.yaml`, the claim and its proof."""

from meshstrap.scenarios.outlier_ejection.scenario import OutlierEjection

SCENARIO = OutlierEjection()
