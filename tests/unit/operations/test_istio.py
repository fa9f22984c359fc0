"""We test the document that istioctl renders, and which data is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from pyinfra.api.exceptions import OperationValueError

from meshstrap.operations import istio


def spec(**changes: Any) -> dict[str, Any]:
    given = {"version": "1.31.0", "profile": "demo", "node_port": 30191, "revision": "default", "values": {}}
    built: dict[str, Any] = istio.operator(**{**given, **changes})["spec"]
    return built


def ports(built: dict[str, Any]) -> dict[str, dict[str, Any]]:
    service = built["components"]["ingressGateways"][0]["k8s"]["service"]
    assert service["type"] == "NodePort"
    return {port["name"]: port for port in service["ports"]}


def test_one_node_port_is_pinned_and_no_port_of_the_profile_is_lost() -> None:
    seen = ports(spec(node_port=30080))
    assert set(seen) == {"status-port", "http2", "https", "tcp", "tls"}
    assert seen["http2"] == {"name": "http2", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30080}
    assert [name for name, port in seen.items() if "nodePort" in port] == ["http2"]


def test_the_default_profile_has_fewer_ports_and_minimal_no_gateway() -> None:
    assert set(ports(spec(profile="default"))) == {"status-port", "http2", "https"}
    assert "components" not in spec(profile="minimal")


def test_the_proofs_can_read_access_log_and_counters() -> None:
    mesh = spec()["meshConfig"]
    assert (mesh["accessLogFile"], mesh["accessLogEncoding"]) == ("/dev/stdout", "TEXT")
    assert "cluster.outbound" in mesh["defaultConfig"]["proxyStatsMatcher"]["inclusionPrefixes"]


def test_the_sites_values_win_and_leave_the_rest() -> None:
    values = spec(values={"telemetry": {"enabled": False}, "defaultRevision": "mine"})["values"]
    assert values == {"telemetry": {"enabled": False}, "defaultRevision": "mine"}


def test_a_revision_is_named_only_where_it_is_not_the_default_one() -> None:
    assert "revision" not in spec()
    assert spec(revision="1-31")["revision"] == "1-31"
    assert spec(revision="1-31")["values"]["defaultRevision"] == "1-31"


@pytest.mark.parametrize("port", [80, 29999, 32768, 0, -1, "30191", "abc", 30191.0, True, None])
def test_a_node_port_that_is_none_is_refused_by_name(port: object) -> None:
    with pytest.raises(OperationValueError, match="ingress_node_port must be a whole number from 30000 to 32767"):
        spec(node_port=port)


def test_both_ends_of_the_node_port_range_are_taken() -> None:
    assert ports(spec(node_port=30000))["http2"]["nodePort"] == 30000
    assert ports(spec(node_port=32767))["http2"]["nodePort"] == 32767


def test_an_unknown_profile_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(OperationValueError, match="one of default, demo, minimal, not 'ambient'"):
        spec(profile="ambient")


# `--data istio_version=1.31` arrives as a number.
@pytest.mark.parametrize("version", ["latest", 1.31, 1, None, True, ["1.31.0"], "1.31", "v1.31.0", "1.31.0 "])
def test_a_version_that_is_none_is_refused_by_name_and_value(version: object) -> None:
    with pytest.raises(OperationValueError) as refusal:
        spec(version=version)
    said = str(refusal.value)
    assert said.startswith("istio_version: ")
    assert repr(version) in said
    assert "1.31.0" in said


def test_a_version_before_its_release_is_taken() -> None:
    assert spec(version="1.31.0-rc.0")["tag"] == "1.31.0-rc.0"


@pytest.mark.parametrize("revision", [1.31, 1, None, True, "", "1.31", "Canary", "-a", ["default"], {}])
def test_a_revision_that_is_none_is_refused_by_name_and_value(revision: object) -> None:
    with pytest.raises(OperationValueError, match=r"^istio_revision must be .*, not ") as refusal:
        spec(revision=revision)
    assert repr(revision) in str(refusal.value)


@pytest.mark.parametrize("profile", [1, None, True, ["demo"], {}])
def test_a_profile_that_is_no_text_is_refused(profile: Any) -> None:
    with pytest.raises(OperationValueError, match="istio_profile must be one of default, demo, minimal"):
        spec(profile=profile)
    with pytest.raises(OperationValueError, match="istio_profile must be one of default, demo, minimal"):
        istio.gateway(profile)


@pytest.mark.parametrize("key", ["allow_unsupported_versions", "force"])
@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_switch_that_is_neither_true_nor_false_is_refused(key: str, value: Any) -> None:
    with pytest.raises(OperationValueError, match=f"{key} must be true or false, not {value!r}"):
        istio.control_plane("1.31.0", **{key: value})


@pytest.mark.parametrize("values", [["pilot"], [], "", 0, False])
def test_values_that_are_no_mapping_are_refused(values: Any) -> None:
    with pytest.raises(OperationValueError, match="istio_values"):
        istio.control_plane("1.31.0", values=values)


def test_keys_without_a_value_are_left_out_at_any_depth() -> None:
    rendered = {"metadata": {"annotations": None, "name": "x"}, "spec": {"a": [{"b": None, "c": 0}], "d": {}}}
    assert istio.without_nulls(rendered) == {"metadata": {"name": "x"}, "spec": {"a": [{"c": 0}], "d": {}}}


def test_the_images_have_a_tag_of_their_own_only_when_told() -> None:
    assert spec()["tag"] == "1.31.0"
    assert spec(tag="1.31.0-again")["tag"] == "1.31.0-again"


@pytest.mark.parametrize("tag", [1.31, None, True, "a b", "-a", "docker.io/istio/pilot:1"])
def test_a_tag_that_is_none_is_refused_by_name_and_value(tag: object) -> None:
    with pytest.raises(OperationValueError, match=r"^istio_tag must be ") as refusal:
        spec(tag=tag)
    assert repr(tag) in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "policy"),
    [
        ({}, "Cluster"),
        ({"gateways": {}}, "Cluster"),
        ({"gateways": {"istio-ingressgateway": {"externalTrafficPolicy": "Local"}}}, "Local"),
        ({"gateways": {"istio-ingressgateway": {"externalTrafficPolicy": ""}}}, "Cluster"),
        ({"gateways": [1]}, "Cluster"),
    ],
)
def test_the_gateways_policy_is_declared_so_that_a_hand_that_changes_it_is_undone(
    values: dict[str, Any], policy: str
) -> None:
    built = istio.operator("1.31.0", "demo", 30191, "default", values)["spec"]
    assert built["components"]["ingressGateways"][0]["k8s"]["service"]["externalTrafficPolicy"] == policy
