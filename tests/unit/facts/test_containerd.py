"""We test that containerd's tables become images, complete ones told from others."""

from __future__ import annotations

from meshstrap.facts.containerd import parse_images

DIGEST = "sha256:278fb9dbcca9518083ad1e11276933a2e96f23de604a3a08cc3c80002767d24c"

# As printed by the fact's script on containerd 2.4.2.
SAID = f"""\
##pinned
registry.k8s.io/pause:3.10.1
##check
registry.k8s.io/pause:3.10.1 {DIGEST} complete true
docker.io/istio/pilot:1.31.0 {DIGEST} incomplete true
docker.io/istio/proxyv2:1.31.0 {DIGEST} complete false
sha256:0a1e837fcd5ed27c1a1dcae36bbc51c6c144581452d432c270b5e750297f4301 {DIGEST} complete true
a line that is no image
"""


def test_an_image_is_complete_when_every_blob_is_there_and_unpacked() -> None:
    images = parse_images(SAID.splitlines())
    assert {reference: image["complete"] for reference, image in images.items()} == {
        "registry.k8s.io/pause:3.10.1": True,
        "docker.io/istio/pilot:1.31.0": False,
        "docker.io/istio/proxyv2:1.31.0": False,
    }
    assert images["registry.k8s.io/pause:3.10.1"] == {"manifest": DIGEST, "complete": True, "pinned": True}
    assert not images["docker.io/istio/pilot:1.31.0"]["pinned"]


def test_without_containerd_there_are_no_images() -> None:
    assert parse_images([]) == {}
