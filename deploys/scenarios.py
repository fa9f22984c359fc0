"""All scenarios, one after the other, applied and proved; and the table of their verdicts."""

from pyinfra import host, local

from meshstrap.operations import scenario

local.include("deploys/bookinfo.py")
local.include("deploys/canary.py")
local.include("deploys/circuit_breaker.py")
local.include("deploys/fault.py")
local.include("deploys/injection.py")
local.include("deploys/mirror.py")
local.include("deploys/outlier_ejection.py")
local.include("deploys/retry.py")
local.include("deploys/timeout.py")

if "leader" in host.groups:
    scenario.verdicts(name="Verdicts")
