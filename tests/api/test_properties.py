"""What must hold for any object, with random ones: planning after applying finds nothing, and one changed field is
found exactly."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshstrap.kube.connect import Client
from meshstrap.kube.plan import plan

from .objects import Item, config_map, deployment, put, service

SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)

names = st.from_regex(r"[a-z]([a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
keys = st.from_regex(r"[A-Za-z0-9][-A-Za-z0-9._]{0,10}[A-Za-z0-9]", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=40)
quantities = st.sampled_from(["100m", "0.1", "1", "1000m", "1.5", "1e1", "2k"])
sizes = st.sampled_from(["64Mi", "65536Ki", "1Gi", "1024Mi", "1e9", "128974848"])

containers = st.fixed_dictionaries(
    {"image": st.sampled_from(["example.org/app:1", "docker.io/library/nginx", "httpbin"])},
    optional={
        "args": st.lists(texts, max_size=3),
        "env": st.lists(
            st.fixed_dictionaries({"name": names, "value": texts}), max_size=4, unique_by=lambda item: item["name"]
        ),
        "ports": st.lists(
            st.fixed_dictionaries(
                {"containerPort": st.integers(1, 65535)}, optional={"protocol": st.sampled_from(["TCP", "UDP"])}
            ),
            max_size=3,
            unique_by=lambda item: item["containerPort"],
        ),
        "resources": st.fixed_dictionaries(
            {"requests": st.fixed_dictionaries({}, optional={"cpu": quantities, "memory": sizes})}
        ),
        "imagePullPolicy": st.sampled_from(["Always", "Never", "IfNotPresent"]),
    },
)


@SETTINGS
@given(data=st.dictionaries(keys, texts, max_size=6), key=keys, text=texts)
def test_config_maps(client: Client, namespace: str, data: dict[str, str], key: str, text: str) -> None:
    item = config_map("any", namespace, **data)
    put(client, item)
    assert not plan(client, [item]).pending
    altered = config_map("any", namespace, **{**data, key: text})
    found = plan(client, [altered])
    if data.get(key) == text:
        assert not found.pending
    else:
        [field] = found.pending[0].fields
        assert field.declared in (text, {key: text})
        assert (field.live or None) == data.get(key) or not data.get(key)


@SETTINGS
@given(container=containers, image=st.sampled_from(["example.org/app:2", "other"]))
def test_deployments(client: Client, namespace: str, container: dict[str, Any], image: str) -> None:
    item = deployment("any", namespace, **container)
    put(client, item)
    assert not plan(client, [item]).pending
    altered: Item = copy.deepcopy(item)
    altered["spec"]["template"]["spec"]["containers"][0]["image"] = image
    [change] = plan(client, [altered]).changes
    [field] = change.fields
    assert (field.path, field.live, field.declared) == (
        ".spec.template.spec.containers[name=app].image",
        container["image"],
        image,
    )


@SETTINGS
@given(
    ports=st.lists(
        st.fixed_dictionaries(
            {"port": st.integers(1, 65535)},
            optional={"targetPort": st.one_of(st.integers(1, 65535), names), "protocol": st.just("TCP")},
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda item: item["port"],
    )
)
def test_services(client: Client, namespace: str, ports: list[dict[str, Any]]) -> None:
    item = service("any", namespace, ports=[{"name": f"p{port['port']}", **port} for port in ports])
    put(client, item)
    assert not plan(client, [item]).pending
