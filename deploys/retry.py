"""Retries: busybox's proxy asks nginx three times more, as tomcat's answers are aborted; nginx's log tells how often."""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("retry", force=host.data.force, name="Retry: three times more for a 503")
    scenario.proof("retry", name="Retry: proof of the attempts")
