"""A timeout: busybox's proxy waits 2 s for nginx, whose tomcat is delayed by 10 s; the log tells how long it took."""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("timeout", force=host.data.force, name="Timeout: 2 s for what takes 10 s")
    scenario.proof("timeout", name="Timeout: proof of the timeout")
