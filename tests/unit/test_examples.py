"""We test that the examples for physical nodes offer every setting that there is, and groups as deploys expect them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]


def names(path: Path) -> dict[str, Any]:
    """The data that pyinfra reads from a file: its names that begin with no underscore."""
    return {name: value for name, value in runpy.run_path(str(path)).items() if not name.startswith("_")}


def test_the_example_has_every_setting_with_its_shipped_value() -> None:
    assert names(CHECKOUT / "examples/group_data/all.py") == names(CHECKOUT / "group_data/all.py")


def test_the_example_inventory_checks_host_keys_and_gives_every_node_its_address() -> None:
    groups = names(CHECKOUT / "examples/inventory.py")
    assert set(groups) == {"control_plane", "workers", "leader"}
    assert groups["leader"] == groups["control_plane"][:1]
    for _, data in groups["control_plane"] + groups["workers"]:
        assert data["ssh_strict_host_key_checking"] == "yes"
        assert data["node_address"] and data["ssh_known_hosts_file"]


def test_what_holds_for_the_lab_overrides_settings_that_there_are() -> None:
    assert set(names(CHECKOUT / "group_data/lab.py")) <= set(names(CHECKOUT / "group_data/all.py"))
