"""Whether a pod's access log can be read, and which object or setting takes its lines away."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.mesh.access_logging import Unlogged, settings, unlogged

Object = dict[str, Any]

WHERE = "mesh config (ConfigMap istio-system/istio)"
STDOUT: Object = {"accessLogFile": "/dev/stdout", "extensionProviders": [{"name": "otel", "envoyOtelAls": {}}]}
POD = {"metadata": {"name": "web-1", "namespace": "web", "labels": {"app": "web"}}}
GATEWAY = {"metadata": {"name": "gw-1", "namespace": "istio-system", "labels": {"istio": "ingressgateway"}}}
ENVOY = {"providers": [{"name": "envoy"}]}
OFF = ENVOY | {"disabled": True}


def telemetry(where: str, *rules: Object, made: str = "2026-01-01T00:00:00Z", **spec: Any) -> Object:
    namespace, _, name = where.partition("/")
    metadata = {"namespace": namespace, "name": name, "creationTimestamp": made}
    return {"kind": "Telemetry", "metadata": metadata, "spec": {"accessLogging": list(rules), **spec}}


def found(pod: Object, *telemetries: Object, mesh: Object = STDOUT) -> list[Unlogged]:
    return unlogged(pod, telemetries, mesh, where=WHERE, root="istio-system")


def on(mode: str, rule: Object) -> Object:
    return rule | {"match": {"mode": mode}}


@pytest.mark.parametrize(
    ("pod", "telemetries", "mesh"),
    [
        (POD, [], STDOUT),
        (POD, [], {"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"}),
        (POD, [], {"defaultProviders": {"accessLogging": ["envoy"]}}),
        (POD, [telemetry("istio-system/on", ENVOY)], {}),
        (POD, [telemetry("istio-system/off", OFF), telemetry("web/on", ENVOY)], STDOUT),
        (POD, [telemetry("istio-system/off", OFF, selector={"matchLabels": {"app": "web"}})], STDOUT),
        (POD, [telemetry("web/off", OFF, selector={"matchLabels": {"app": "other"}})], STDOUT),
        (POD, [telemetry("shop/off", OFF)], STDOUT),
        (POD, [telemetry("web/off", OFF, targetRefs=[{"kind": "Gateway", "name": "x"}])], STDOUT),
        (POD, [telemetry("web/old", ENVOY), telemetry("web/young", OFF, made="2026-02-01T00:00:00Z")], STDOUT),
        # Without a provider that is known the mesh config's own file counts.
        (POD, [telemetry("web/off", {"disabled": True})], STDOUT),
        (POD, [telemetry("web/other", {"providers": [{"name": "nosuch"}]})], STDOUT),
        # A gateway has no server's side.
        (GATEWAY, [telemetry("istio-system/off", on("SERVER", OFF))], STDOUT),
        (GATEWAY, [telemetry("web/off", OFF)], STDOUT),
    ],
)
def test_a_log_that_can_be_read_lacks_nothing(pod: Object, telemetries: list[Object], mesh: Object) -> None:
    assert found(pod, *telemetries, mesh=mesh) == []


@pytest.mark.parametrize(
    ("pod", "telemetries", "mesh", "by", "why"),
    [
        (POD, [telemetry("istio-system/off", OFF)], STDOUT, "Telemetry istio-system/off", "disables the access log"),
        (GATEWAY, [telemetry("istio-system/off", on("CLIENT", OFF))], STDOUT, "Telemetry istio-system/off", "disables"),
        (
            POD,
            [telemetry("web/off", OFF), telemetry("istio-system/on", ENVOY)],
            STDOUT,
            "Telemetry web/off",
            "disables",
        ),
        (
            POD,
            [telemetry("web/off", OFF, selector={"matchLabels": {"app": "web"}})],
            STDOUT,
            "Telemetry web/off",
            "disables",
        ),
        (
            POD,
            [telemetry("web/off", {"disabled": True})],
            {"defaultProviders": {"accessLogging": ["envoy"]}},
            "Telemetry web/off",
            "disables",
        ),
        (
            POD,
            [telemetry("web/otel", {"providers": [{"name": "otel"}]})],
            STDOUT,
            "Telemetry web/otel",
            "provider otel, which is no file of the proxy (envoyOtelAls)",
        ),
        (
            POD,
            [],
            {
                "defaultProviders": {"accessLogging": ["file"]},
                "extensionProviders": [{"name": "file", "envoyFileAccessLog": {"path": "/var/log/access"}}],
            },
            WHERE,
            "writes to /var/log/access",
        ),
        (
            POD,
            [telemetry("web/json", {"providers": [{"name": "mine"}]})],
            {"extensionProviders": [{"name": "mine", "envoyFileAccessLog": {"logFormat": {"text": "%PATH%"}}}]},
            "Telemetry web/json",
            "logFormat of its own",
        ),
        (
            POD,
            [telemetry("web/both", {"providers": [{"name": "envoy"}, {"name": "mine"}]})],
            {"extensionProviders": [{"name": "mine", "envoyFileAccessLog": {"path": "/dev/stdout"}}]},
            "Telemetry web/both",
            "logged 2 times",
        ),
        (POD, [], {}, WHERE, "lacks accessLogFile: /dev/stdout"),
        (POD, [], {"accessLogFile": "/var/log/access"}, WHERE, "lacks accessLogFile: /dev/stdout"),
        (POD, [], STDOUT | {"accessLogFormat": "%START_TIME%"}, WHERE, "sets accessLogFormat"),
    ],
)
def test_who_takes_all_lines_away_is_named(
    pod: Object, telemetries: list[Object], mesh: Object, by: str, why: str
) -> None:
    (reason,) = found(pod, *telemetries, mesh=mesh)
    assert reason.by.startswith(by) and why in reason.why
    assert reason.all


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (on("SERVER", OFF), "disables the access log (envoy); take that out or delete it (of what pods are asked for)"),
        (on("CLIENT", OFF), "(of what pods ask for)"),
        (
            ENVOY | {"filter": {"expression": "response.code >= 400"}},
            "only requests logged that pass 'response.code >= 400'",
        ),
    ],
)
def test_who_takes_some_lines_away_is_named_as_well(rule: Object, why: str) -> None:
    (reason,) = found(POD, telemetry("istio-system/some", rule))
    assert reason.by == "Telemetry istio-system/some" and why in reason.why
    assert not reason.all


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "is not there; run deploys/istio.py"),
        ({"data": {"mesh": "a: [b"}}, "is no YAML"),
        ({"data": {"mesh": "text"}}, "is no mapping"),
    ],
)
def test_a_mesh_config_that_cannot_be_read_is_named(config: Object | None, said: str) -> None:
    mesh, wrong = settings(config, "istio-1-31")
    assert mesh == {} and said in wrong and "ConfigMap istio-system/istio-1-31" in wrong


def test_a_mesh_config_is_read() -> None:
    assert settings({"data": {"mesh": "accessLogFile: /dev/stdout\n"}}, "istio") == (
        {"accessLogFile": "/dev/stdout"},
        "",
    )
    assert settings({"data": {"mesh": ""}}, "istio") == ({}, "")


KEYS = st.sampled_from(
    ["accessLogging", "providers", "name", "disabled", "match", "mode", "filter", "selector", "path"]
)
JSON = st.recursive(
    st.sampled_from([None, True, 1, "envoy", "CLIENT", "web"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@given(spec=JSON, rules=st.lists(JSON, max_size=3), providers=JSON)
def test_whatever_telemetry_and_mesh_config_say_is_no_error(spec: Any, rules: list[Any], providers: Any) -> None:
    odd = telemetry("web/odd") | {"spec": spec}
    mesh = {"extensionProviders": providers, "defaultProviders": {"accessLogging": rules}}
    for telemetries in ([odd], [telemetry("web/rules", *rules)], []):
        found(POD, *telemetries, mesh=mesh)
