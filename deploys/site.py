"""From bare machines to a mesh: what is there already is left as it is."""

from pyinfra import local

local.include("deploys/preflight.py")
local.include("deploys/runtime.py")
local.include("deploys/images.py")
local.include("deploys/cluster.py")
local.include("deploys/istio.py")
