"""The canary: two versions behind one Service, the gateway splits requests by weight, and 400 of them prove it.

`--data canary_weight=20` is v2's share in percent; `--data prove=false` skips the proof. `--data canary_ladder=true` raises
it in steps to 100 % and takes v1 away, with requests going on, and comes back.
"""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("canary", force=host.data.force, name="Canary: two versions, split by weight")
    scenario.ladder(name="Canary: the ladder to 0/100 and back")
    scenario.proof("canary", name="Canary: proof of the split")
