"""Connecting: TLS, credentials, outages and what an operator's environment must not change."""

from __future__ import annotations

import base64
import copy
import http.server
import json
import os
import pty
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives import serialization
from typing_extensions import override

from meshstrap.kube.apply import apply
from meshstrap.kube.connect import Client, Method, connect
from meshstrap.kube.errors import ApiError, ApiUnreachable, ApiUntrusted, KubeError, UnknownKind
from meshstrap.kube.plan import plan

from .apiserver import ApiServer, Authority
from .objects import config_map, definition, live, put


class Front:
    """What may stand before an API server: it passes requests on, below a path, or answers by itself."""

    def __init__(self, behind: ApiServer) -> None:
        self.prefix = ""
        self.instead: list[tuple[int, bytes]] = []
        self._behind = behind
        self._client = behind.client()
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, content = front.answer(self.command, self.path, self.headers.get("Content-Type"), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PATCH = answer

            @override
            def log_message(self, format: str, *args: object) -> None:
                pass

        certificate, key = behind.authority.issue("front")
        pair = behind.directory / "front.pem"
        pair.write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def answer(self, method: str, path: str, content_type: str | None, body: bytes) -> tuple[int, bytes]:
        if self.instead:
            return self.instead.pop(0)
        if not path.startswith(self.prefix):
            return 404, b"not here"
        try:
            content = self._client.fetch(
                cast(Method, method),
                path.removeprefix(self.prefix),
                body=json.loads(body) if body else None,
                content_type=content_type or "",
                accept="application/json",
            )
        except ApiError as error:
            return error.status, json.dumps({"message": error.message, "details": error.details}).encode()
        return 200, content

    def connect(self, path: str = "") -> Client:
        return connect(self._behind.kubeconfig, server=f"https://127.0.0.1:{self.server.server_port}{path}")


@pytest.fixture
def front(api_server: ApiServer) -> Iterator[Front]:
    made = Front(api_server)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


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
        ({"proxy-url": "http://127.0.0.1:1"}, "proxy-url is not supported"),
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


def test_another_user_than_the_kubeconfig_asks_for_is_nobody_to_act_as(api_server: ApiServer) -> None:
    config = api_server.kubeconfig
    config["users"][0]["user"]["as"] = "somebody-with-less-rights"
    with pytest.raises(KubeError, match="as is not supported"):
        connect(config)


def test_base64_may_be_wrapped(api_server: ApiServer) -> None:
    config = api_server.kubeconfig
    for entry in (config["clusters"][0]["cluster"], config["users"][0]["user"]):
        for key in [key for key in entry if key.endswith("-data")]:
            entry[key] = base64.encodebytes(base64.b64decode(entry[key])).decode()
    assert connect(config).fetch("GET", "/readyz") == b"ok"


def test_an_encrypted_key_is_refused_without_a_question(api_server: ApiServer, tmp_path: Path) -> None:
    config = api_server.kubeconfig
    key = serialization.load_pem_private_key(api_server.client_key, None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    config["users"][0]["user"]["client-key-data"] = base64.b64encode(sealed).decode()
    (tmp_path / "config").write_text(json.dumps(config))
    program = "import sys, json; from meshstrap.kube.connect import connect; connect(json.load(open(sys.argv[1])))"
    # A terminal of its own, on which nobody will ever answer.
    master, terminal = pty.openpty()
    try:
        done = subprocess.run(
            ["setsid", "--ctty", "--wait", sys.executable, "-c", program, str(tmp_path / "config")],
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=30,
        )
    finally:
        os.close(master)
        os.close(terminal)
    assert "a certificate or key in it is damaged or encrypted" in done.stderr


def test_a_token_file_is_newer_than_the_token(api_server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(ApiServer.TOKEN + "\n")
    config = api_server.kubeconfig
    config["users"][0]["user"] = {"token": "expired", "tokenFile": str(tmp_path / "token")}
    assert connect(config).request("GET", "/api/v1/namespaces")["kind"] == "NamespaceList"


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


def _asked(api_server: ApiServer, directory: Path, first: dict[str, str]) -> tuple[Client, Path]:
    """Return a client whose plugin answers badly first and well later, and the file with a line for each question."""
    asked = directory / "asked"
    asked.touch()
    for name, status in (("first", first), ("later", {"token": ApiServer.TOKEN})):
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        (directory / name).write_text(json.dumps(credential))
    plugin = directory / "plugin"
    plugin.write_text(
        f"#!/bin/sh\ncd {directory}\necho once >> asked\n"
        "if [ $(wc -l < asked) = 1 ]; then cat first; else cat later; fi\n"
    )
    plugin.chmod(0o755)
    config = api_server.kubeconfig
    settings = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    config["users"][0]["user"] = {"exec": settings}
    return connect(config), asked


def test_an_exec_plugin_is_asked_again_when_its_token_is_not_accepted_any_more(
    api_server: ApiServer, tmp_path: Path, namespace: str
) -> None:
    client, asked = _asked(api_server, tmp_path, {"token": "expired"})
    # Sixteen at once: one of them asks, and a write is sent again too.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: put(client, config_map(f"c{n}", namespace, a="1")), range(16)))
    assert asked.read_text().count("once") == 2


def test_an_exec_plugins_certificate_is_renewed_as_well(api_server: ApiServer, tmp_path: Path) -> None:
    # Of another authority: the server knows nobody by it.
    certificate, key = Authority().issue("admin", organization="system:masters")
    given = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
    client, asked = _asked(api_server, tmp_path, given)
    assert client.request("GET", "/api/v1/namespaces")["kind"] == "NamespaceList"
    assert asked.read_text().count("once") == 2


def test_an_exec_plugin_is_asked_again_before_its_token_expires(api_server: ApiServer, tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=12)
    first = {"token": ApiServer.TOKEN, "expirationTimestamp": soon.strftime("%Y-%m-%dT%H:%M:%SZ")}
    client, asked = _asked(api_server, tmp_path, first)
    client.request("GET", "/api/v1/namespaces")
    assert asked.read_text().count("once") == 1
    time.sleep(max((soon - datetime.now(UTC)).total_seconds() - 9.5, 0))
    client.request("GET", "/api/v1/namespaces")
    client.request("GET", "/api/v1/namespaces")
    assert asked.read_text().count("once") == 2


def test_a_token_file_is_read_again_when_its_token_is_not_accepted_any_more(
    api_server: ApiServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("expired")
    config = api_server.kubeconfig
    config["users"][0]["user"] = {"tokenFile": str(tmp_path / "token")}
    client = connect(config)
    with pytest.raises(ApiError, match="does not accept the kubeconfig's credentials"):
        client.request("GET", "/api/v1/namespaces")
    (tmp_path / "token").write_text(ApiServer.TOKEN)
    assert client.request("GET", "/api/v1/namespaces")["kind"] == "NamespaceList"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "exec plugin .*plugin cannot be run: No such file or directory\nInstall it from the shelf"),
        ("echo no session >&2; exit 3", "exec: process returned 3. no session"),
        ("echo no json", "exec: failed to decode process output"),
    ],
)
def test_an_exec_plugin_that_fails_is_said_so(api_server: ApiServer, tmp_path: Path, script: str, message: str) -> None:
    plugin = tmp_path / "plugin"
    if script:
        plugin.write_text(f"#!/bin/sh\n{script}\n")
        plugin.chmod(0o755)
    config = api_server.kubeconfig
    config["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "installHint": "Install it from the shelf",
        }
    }
    with pytest.raises(KubeError, match=message):
        connect(config)


def test_a_cluster_below_a_path_of_its_server(api_server: ApiServer, front: Front) -> None:
    front.prefix = "/k8s/clusters/c-1"
    client = front.connect("/k8s/clusters/c-1/")
    assert client.request("GET", "/api/v1/namespaces", query={"limit": "1"})["kind"] == "NamespaceList"


def test_a_load_balancer_between_two_servers_is_tried_again(front: Front, namespace: str) -> None:
    front.instead = [(502, b"<html>Bad gateway</html>")] * 2
    put(front.connect(), config_map("balanced", namespace, a="1"))
    assert front.instead == []


def test_an_answer_that_is_no_json_is_said_so(front: Front) -> None:
    front.instead = [(200, b"<html>Please log in</html>")]
    with pytest.raises(KubeError, match="what is no JSON; is that the API server"):
        front.connect().request("GET", "/version")


def test_nobody_listens(api_server: ApiServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = connect(api_server.kubeconfig, server=f"https://127.0.0.1:{port}", patience=0.5)
    start = time.monotonic()
    with pytest.raises(
        ApiUnreachable, match=rf"127\.0\.0\.1:{port} does not answer: connection refused \(tried for \d s"
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
