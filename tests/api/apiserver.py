"""A real API server for the tests of this tier: etcd and kube-apiserver from the bundle, nothing behind them.

No kubelet and no controller runs here: Pods never start, namespaces never finish terminating, and a test that needs a
status writes it. Both listen on 127.0.0.1, keep their data in one temporary directory and are stopped by pid.
"""

from __future__ import annotations

import base64
import datetime
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshstrap.kube.connect import Client, connect
from meshstrap.kube.errors import KubeError


def bundle_directory() -> Path:
    """Return the directory of the bundle, as the lab uses it."""
    given = os.environ.get("MESHSTRAP_BUNDLE")
    if given:
        return Path(given)
    lab = Path(os.environ.get("MESHSTRAP_LAB", Path(__file__).parents[2] / ".lab"))
    return lab / "bundle"


# A store keeps content, not modes: the programs are copied once to be executable.
_executables = tempfile.TemporaryDirectory(prefix="meshstrap-api-programs-")


def program(name: str) -> Path:
    """Return a program of the bundle under its own name (one binary is several programs, by the name it is called)."""
    lock = bundle_directory() / "bundle.lock.yaml"
    if not lock.exists():
        raise FileNotFoundError(f"{lock} is missing; make the bundle first: meshstrap lab build")
    entry = next(entry for entry in yaml.safe_load(lock.read_text())["programs"] if entry["name"] == name)
    digest = entry["sha256"].removeprefix("sha256:")
    directory = Path(_executables.name)
    copied, link = directory / digest, directory / name
    if not copied.exists():
        shutil.copyfile(bundle_directory() / "store" / "blobs" / "sha256" / digest, copied)
        copied.chmod(0o755)
    if not link.exists():
        link.symlink_to(copied)
    return link


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate authority of its own for one server."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"meshstrap-test-{os.urandom(4).hex()}")])
        self._name = name
        self.certificate = (
            self._builder(name, self._key.public_key(), days=1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            # These and the issued ones' key identifier are what strict clients (Python 3.13's default) want to see.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(_SIGNS_CERTIFICATES, critical=True)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    def _builder(self, name: x509.Name, key: Any, *, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=days))
        )

    def issue(self, common_name: str, *, organization: str = "", names: tuple[str, ...] = ()) -> tuple[bytes, bytes]:
        """Return (certificate, key) as PEM for a server or a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives.append(x509.IPAddress(IPv4Address("127.0.0.1")))
        certificate = (
            self._builder(x509.Name(attributes), key.public_key(), days=1)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return (
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


class ApiServer:
    """One etcd and one kube-apiserver; `kubeconfig` is an administrator's."""

    TOKEN = "a-token-that-nothing-may-print"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._etcd = program("etcd")
        self._apiserver = program("kube-apiserver")
        self._kubectl = program("kubectl")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port, self._etcd_port, self._peer_port = _free_ports(3)
        self.authority = Authority()
        self.client_certificate, self.client_key = self.authority.issue("admin", organization="system:masters")
        certificate, key = self.authority.issue("kube-apiserver", names=("kubernetes",))
        account_key = ec.generate_private_key(ec.SECP256R1())
        for name, content in (
            ("ca.crt", self.authority.certificate),
            ("server.crt", certificate),
            ("server.key", key),
            (
                "accounts.key",
                account_key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.TraditionalOpenSSL,
                    serialization.NoEncryption(),
                ),
            ),
            ("tokens.csv", f"{self.TOKEN},token-user,1,system:masters\n".encode()),
        ):
            (directory / name).write_bytes(content)
        (directory / "kubeconfig").write_text(yaml.safe_dump(self.kubeconfig))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority-data": base64.b64encode(self.authority.certificate).decode(),
                    },
                }
            ],
            "users": [
                {
                    "name": "admin",
                    "user": {
                        "client-certificate-data": base64.b64encode(self.client_certificate).decode(),
                        "client-key-data": base64.b64encode(self.client_key).decode(),
                    },
                }
            ],
        }

    def start(self) -> None:
        """Start both and wait until the API server is ready."""
        if "etcd" not in self._processes:
            client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
            self._run(
                "etcd",
                [
                    str(self._etcd),
                    f"--data-dir={self.directory / 'data'}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster=default={peer}",
                    "--unsafe-no-fsync",
                    "--log-level=error",
                ],
            )
        self._run(
            "kube-apiserver",
            [
                str(self._apiserver),
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self.port}",
                f"--tls-cert-file={self.directory / 'server.crt'}",
                f"--tls-private-key-file={self.directory / 'server.key'}",
                f"--client-ca-file={self.directory / 'ca.crt'}",
                f"--token-auth-file={self.directory / 'tokens.csv'}",
                f"--service-account-key-file={self.directory / 'accounts.key'}",
                f"--service-account-signing-key-file={self.directory / 'accounts.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                # Nobody makes the default ServiceAccounts here.
                "--disable-admission-plugins=ServiceAccount",
                "--allow-privileged=true",
            ],
        )
        probe = connect(self.kubeconfig, patience=60)
        deadline = time.monotonic() + 60
        while True:
            try:
                if probe.fetch("GET", "/readyz") == b"ok":
                    break
            except KubeError:
                if time.monotonic() > deadline:
                    raise RuntimeError(self.log("kube-apiserver")) from None
            if self._processes["kube-apiserver"].poll() is not None:
                raise RuntimeError(self.log("kube-apiserver"))
            time.sleep(0.1)
        probe.close()

    def kill(self) -> None:
        """Kill the API server as a crash does; etcd stays."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop both."""
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            process.send_signal(signal.SIGKILL)
            process.wait()

    def client(self, **settings: Any) -> Client:
        """Return a new client for this server."""
        return connect(self.kubeconfig, **settings)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as an administrator and return what it prints."""
        done = subprocess.run(
            [str(self._kubectl), f"--kubeconfig={self.directory / 'kubeconfig'}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self, name: str) -> str:
        """Return the end of a program's log."""
        return (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]

    def _run(self, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
