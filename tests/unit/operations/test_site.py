"""We test that a name given by `--data` that nothing reads is refused when a deploy is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_host, ctx_inventory

from meshstrap.operations import preflight, scenario, site

PLAN = preflight.Plan(
    bundle="images", kubernetes_version="1.34.10", istio_version="1.31.0", allow_unsupported_versions=False,
    pod_cidr="10.244.0.0/16", service_cidr="10.96.0.0/16", cni_manifests=[], ingress_node_port=30191,
    kubelet_config={}, containerd_config={}, accept=[],
)  # fmt: skip
FIRST: list[Callable[[], object]] = [site.lock, scenario.verdicts, lambda: preflight.look(PLAN)]


@pytest.mark.parametrize("leaders", [{}, {"leader": ([], {})}])
def test_an_inventory_in_which_nobody_leads_is_refused_when_the_deploy_is_read(leaders: dict[str, Any]) -> None:
    inventory = Inventory((["control-1"], {}), **leaders)  # type: ignore[no-untyped-call]
    with (
        ctx_inventory.use(inventory),
        ctx_host.use(inventory.get_host("control-1")),
        pytest.raises(OperationValueError, match="no host in a group `leader`; add `leader = control_plane"),
    ):
        site.lock()


def given(first: Callable[[], object], **data: Any) -> None:
    """Begin a deploy with data from the command line, on a site whose group_data and inventory have some names."""
    inventory = Inventory(  # type: ignore[no-untyped-call]
        (["control-1"], {}),
        override_data=data,
        everyone=(["control-1"], {"canary_weight": 10, "confirm": ""}),
        leader=([("control-1", {"node_address": "10.0.0.1"})], {}),
    )
    with ctx_inventory.use(inventory), ctx_host.use(inventory.get_host("control-1")):
        first()


@pytest.mark.parametrize("first", FIRST, ids=["lock", "verdicts", "preflight"])
def test_a_slip_of_the_pen_is_refused_with_the_name_that_was_meant(first: Callable[[], object]) -> None:
    with pytest.raises(OperationValueError, match=r"--data canary_weigth: .* is canary_weight meant\?"):
        given(first, canary_weigth=20)


def test_all_unknown_names_are_told_at_once() -> None:
    with pytest.raises(OperationValueError) as refusal:
        given(site.lock, canary_weight=20, zzz=1, Confirm="meshstrap")
    assert re.fullmatch(
        r"--data Confirm: there is no such setting; is confirm meant\?\n--data zzz: there is no such setting\n"
        r"group_data/all.py has them all, and takes those of your own deploys",
        str(refusal.value),
    )


@pytest.mark.parametrize("name", ["canary_weight", "confirm", "kubeconfig", "node_port_url", "ssh_user", "_sudo"])
def test_a_name_that_the_site_or_pyinfra_knows_passes(name: str) -> None:
    # Without a run of pyinfra the operation cannot be added: that it is tried shows that the name passed.
    with pytest.raises(Exception) as refusal:
        given(site.lock, **{name: "x"})
    assert not isinstance(refusal.value, OperationValueError)
