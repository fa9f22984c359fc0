"""The job of bench/peers.py as a deploy: images on all nodes, istioctl with its checksum, the canary, its rollouts."""

from pyinfra import host, local

from meshstrap.operations import istio

local.include("deploys/images.py")

if "leader" in host.groups:
    istio.istioctl(host.data.bundle, name="istioctl from the bundle")

local.include("deploys/canary.py")
