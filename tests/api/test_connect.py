"""Connecting: TLS, credentials, outages and what an operator's environment must not change."""

from __future__ import annotations

import base64
import copy
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from meshstrap.kube.apply import apply
from meshstrap.kube.connect import Client, connect
from meshstrap.kube.errors import ApiError, ApiUnreachable, ApiUntrusted, KubeError, UnknownKind
from meshstrap.kube.plan import plan

from .apiserver import ApiServer, Authority
from .objects import config_map, definition, live, put


def test_the_environment_of_the_operator_changes_nothing(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    assert api_server.client().fetch("GET", "/readyz") == b"ok"


def test_another_clusters_authority_is_refused(api_server: ApiServer) -> None:
    config = api_server.kubeconfig
    config["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(Authority().certificate).decode()
    start = time.monotonic()
    with pytest.raises(ApiUntrusted, match=r"unable to get local issuer|self-signed"):
        connect(config).fetch("GET", "/readyz")
    assert time.monotonic() - start < 5


def test_the_servers_name_is_verified(api_server: ApiServer) -> None:
    url = api_server.url.replace("127.0.0.1", "localhost")
    assert connect(api_server.kubeconfig, server=url, tls_server_name="kubernetes").fetch("GET", "/readyz")
    with pytest.raises(ApiUntrusted, match="must carry the name 'other'"):
        connect(api_server.kubeconfig, server=url, tls_server_name="other").fetch("GET", "/readyz")


def test_a_token_serves_as_well(api_server: ApiServer) -> None:
    config = api_server.kubeconfig
    config["users"][0]["user"] = {"token": ApiServer.TOKEN}
    client = connect(config)
    answer = client.request(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        body={"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
    )
    assert answer["status"]["userInfo"]["username"] == "token-user"


def test_wrong_credentials_are_said_plainly(api_server: ApiServer) -> None:
    config = api_server.kubeconfig
    config["users"][0]["user"] = {"token": "wrong"}
    with pytest.raises(ApiError, match="does not accept the kubeconfig's credentials"):
        connect(config).request("GET", "/api/v1/namespaces")


def test_the_client_key_is_never_on_disk(
    api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that the process opens for writing while it connects is looked at."""
    opened: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]:
            opened.append(str(arguments[0]))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sys.addaudithook(hook)
    api_server.client().fetch("GET", "/readyz")
    assert opened == [] and list(tmp_path.iterdir()) == []


def test_no_secret_in_what_a_client_prints(api_server: ApiServer) -> None:
    config = api_server.kubeconfig
    config["users"][0]["user"] = {"token": ApiServer.TOKEN}
    client = connect(config)
    assert ApiServer.TOKEN not in repr(client) + str(client)
    assert str(api_server.port) in repr(client)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"insecure-skip-tls-verify": True}, "refused"),
        ({"server": "http://127.0.0.1"}, "must be an https"),
        ({"certificate-authority-data": "%%%"}, "not base64"),
        ({"certificate-authority-data": "bm9uZQ=="}, "damaged"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(api_server: ApiServer, change: dict[str, object], message: str) -> None:
    config = api_server.kubeconfig
    config["clusters"][0]["cluster"] |= change
    with pytest.raises(KubeError, match=message):
        connect(config)


def test_a_kubeconfig_without_its_context() -> None:
    with pytest.raises(KubeError, match="no context named 'gone'"):
        connect({"current-context": "gone"})


def test_a_key_that_does_not_match_its_certificate(api_server: ApiServer) -> None:
    config = copy.deepcopy(api_server.kubeconfig)
    _, other = api_server.authority.issue("other")
    config["users"][0]["user"]["client-key-data"] = base64.b64encode(other).decode()
    with pytest.raises(KubeError, match="do not match"):
        connect(config)


def test_an_ordinary_kubeconfig_names_files(api_server: ApiServer, tmp_path: Path) -> None:
    config = api_server.kubeconfig
    for key, content in (("client-certificate", api_server.client_certificate), ("client-key", api_server.client_key)):
        (tmp_path / key).write_bytes(content)
        del config["users"][0]["user"][f"{key}-data"]
        config["users"][0]["user"][key] = str(tmp_path / key)
    assert connect(config).fetch("GET", "/readyz") == b"ok"


def test_an_exec_plugin_gives_the_token(api_server: ApiServer, tmp_path: Path) -> None:
    answer = (
        '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
        f' "status": {{"token": "{ApiServer.TOKEN}"}}}}'
    )
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\necho '{answer}'\n")
    plugin.chmod(0o755)
    config = api_server.kubeconfig
    config["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "interactiveMode": "Never",
        }
    }
    assert connect(config).request("GET", "/api/v1/namespaces")["kind"] == "NamespaceList"


def test_nobody_listens(api_server: ApiServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = connect(api_server.kubeconfig, server=f"https://127.0.0.1:{port}", patience=0.5)
    start = time.monotonic()
    with pytest.raises(
        ApiUnreachable, match=rf"127\.0\.0\.1:{port} does not answer: connection refused \(tried for 0\.5 s"
    ):
        client.fetch("GET", "/readyz")
    assert time.monotonic() - start < 3


def test_a_tunnel_with_nothing_behind_it(api_server: ApiServer) -> None:
    """An ssh tunnel accepts and then closes: an outage, not a question of certificates."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drop() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=drop)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        client = connect(api_server.kubeconfig, server=url, tls_server_name="kubernetes", patience=0.5)
        with pytest.raises(ApiUnreachable, match="does not answer"):
            client.fetch("GET", "/readyz")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_kind_made_later_is_found(client: Client, namespace: str) -> None:
    with pytest.raises(UnknownKind, match=r"no kind Late in late\.example\.org/v1"):
        client.resource("late.example.org/v1", "Late")
    put(client, definition("late.example.org", "Late"))
    assert client.resource("late.example.org/v1", "Late").plural == "lates"


def test_killed_and_restarted_in_the_middle_of_an_apply(own_server: ApiServer) -> None:
    client = own_server.client(patience=60)
    objects = [config_map(f"c{index}", "default", a=str(index)) for index in range(150)]
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    planned = plan(client, [space, *objects])
    made = 0
    restart = threading.Thread(target=own_server.start)

    def crash_in_the_middle(change: object) -> None:
        nonlocal made
        made += 1
        if made == 20:
            own_server.kill()
            restart.start()

    apply(client, planned, on_change=crash_in_the_middle)
    restart.join()
    stored = live(client, "/api/v1/namespaces/default/configmaps")["items"]
    assert {item["metadata"]["name"] for item in stored} >= {f"c{index}" for index in range(150)}
    assert not plan(client, [space, *objects]).pending


def test_works_in_gevents_greenlets(api_server: ApiServer) -> None:
    """pyinfra patches the standard library for gevent; a second process keeps that out of this one."""
    program = """
from gevent import monkey
monkey.patch_all()
import sys, yaml, gevent
from meshstrap.kube.connect import connect
from meshstrap.kube.plan import plan
from meshstrap.kube.apply import apply

client = connect(yaml.safe_load(open(sys.argv[1])))
def objects(number):
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"green-{number}"}},
        *({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{index}", "namespace": f"green-{number}"},
           "data": {"a": "b"}} for index in range(20)),
    ]
def job(number):
    apply(client, plan(client, objects(number)))
    return len(plan(client, objects(number)).pending)
jobs = [gevent.spawn(job, number) for number in range(3)]
gevent.joinall(jobs, raise_error=True)
print([job.value for job in jobs])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(api_server.directory / "kubeconfig")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[0, 0, 0]", done.stderr


def test_killed_for_good_in_the_middle_of_an_apply(own_server: ApiServer) -> None:
    """Many objects wait their turn: none of them may spend the client's patience once more."""
    client = own_server.client(patience=1)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    planned = plan(client, [space, *(config_map(f"c{index}", "default") for index in range(500))])
    made: list[object] = []

    def crash_in_the_middle(change: object) -> None:
        made.append(change)
        if len(made) == 20:
            own_server.kill()

    start = time.monotonic()
    with pytest.raises(ApiUnreachable, match="does not answer"):
        apply(client, planned, on_change=crash_in_the_middle)
    assert time.monotonic() - start < 20
    assert len(made) < 500
