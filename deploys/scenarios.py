"""All scenarios, one after the other: applied and proved."""

from pyinfra import local

local.include("deploys/bookinfo.py")
local.include("deploys/canary.py")
local.include("deploys/fault.py")
local.include("deploys/mirror.py")
