"""One node of a lab as a site of its own, and a way to it on which a run can be held or cut."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Finished = subprocess.CompletedProcess[str]


class Proxy:
    """A way to a node's sshd on which a run can be held, or cut, once so many bytes have gone to the node.

    Args:
        port: the sshd's, on 127.0.0.1.
        hold_at: bytes of one connection towards the node after which it stands still; None: never.
    """

    def __init__(self, port: int, hold_at: int | None) -> None:
        self.held = threading.Event()
        self._port = port
        self._hold_at = hold_at
        self._go = threading.Event()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def go_on(self) -> None:
        """Let what was held go on."""
        self._go.set()

    def cut(self) -> None:
        """End all connections, as a pulled cable does for both ends."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._go.set()

    def close(self) -> None:
        """Take no more connections, and end those there are."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # Without it the thread that accepts keeps the port open.
        self._server.close()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            threading.Thread(target=self._pump, args=(near, far, self._hold_at), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, None), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, hold_at: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if hold_at is not None and passed + len(data) >= hold_at and not self.held.is_set():
                    self.held.set()
                    self._go.wait()
                sink.sendall(data)
                passed += len(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


ONE_NODE = """
import runpy as _runpy
_groups = _runpy.run_path({shipped!r})
_node, _data = next(each for each in _groups["control_plane"] + _groups["workers"] if each[0] == {node!r})
control_plane = leader = lab = [(_node, {{**_data, **{data!r}}})]
"""


@dataclass(frozen=True)
class OneNode:
    """A node of a lab as a site of its own, whose images come from a bundle."""

    lab: Lab
    name: str
    directory: Path
    pyinfra: Callable[..., Finished]
    shell: Callable[..., Finished]

    @property
    def ssh_port(self) -> int:
        """Where its sshd is published on 127.0.0.1."""
        return read(self.lab.nodes_file).node(self.name).ssh_port

    @property
    def container(self) -> str:
        """The name of the container that it is."""
        return f"{read(self.lab.nodes_file).name}-{self.name}"

    def sh(self, script: str, timeout: float = 60) -> str:
        """Run a script on it that must succeed, and return what that printed."""
        done = self.shell(self.lab, self.name, script, timeout=timeout)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def arguments(self, bundle: Path, *more: str, proxy: Proxy | None = None) -> tuple[str, ...]:
        """Give the arguments of a pyinfra run that brings the bundle's images onto it."""
        data: dict[str, object] = {"bundle": str(bundle)}
        if proxy:
            data |= {"ssh_port": proxy.port, "ssh_strict_host_key_checking": "no"}
        inventory = self.directory / f"inventory-{proxy.port if proxy else 0}.py"
        shipped = str(Path(__file__).resolve().parents[2] / "inventory.py")
        inventory.write_text(ONE_NODE.format(shipped=shipped, node=self.name, data=data))
        flags = more if "--dry" in more else ("-y", *more)
        return (str(inventory), "deploys/images.py", *flags)

    def images(self, bundle: Path, *more: str, proxy: Proxy | None = None) -> tuple[int, str]:
        """Bring the bundle's images onto it; return the exit code and all that was said."""
        run = self.pyinfra(*self.arguments(bundle, *more, proxy=proxy), lab=self.lab, timeout=180)
        return run.returncode, run.stdout + run.stderr

    def install(self, packages: Path) -> None:
        """Install Debian packages from a directory, and start the services that they bring."""
        # A container's root cannot lower an oom score, as these units would.
        services = ("containerd", "docker")
        self.sh(
            f"for s in {' '.join(services)}; do d=/etc/systemd/system/$s.service.d; mkdir -p $d;"
            " printf '[Service]\\nOOMScoreAdjust=0\\n' >$d/lab.conf; done; mkdir /root/packages"
        )
        for package in packages.glob("*.deb"):
            subprocess.run(["docker", "cp", "--quiet", str(package), f"{self.container}:/root/packages/"], check=True)
        self.sh("DEBIAN_FRONTEND=noninteractive dpkg --install /root/packages/*.deb && rm -r /root/packages", 120)

    @contextlib.contextmanager
    def without_pods(self) -> Iterator[None]:
        """Let it have a way to ask its cluster, which names no image: stands for one on which nothing runs."""
        self.sh(
            "touch /etc/kubernetes/admin.conf;"
            " printf '#!/bin/sh\n' >/usr/local/sbin/kubectl; chmod 755 /usr/local/sbin/kubectl"
        )
        try:
            yield
        finally:
            self.sh("rm /etc/kubernetes/admin.conf /usr/local/sbin/kubectl")

    @contextlib.contextmanager
    def held(self, bundle: Path, hold_at: int) -> Iterator[tuple[subprocess.Popen[str], Proxy]]:
        """Start such a run, and hold it once so many bytes have gone to the node."""
        proxy = Proxy(self.ssh_port, hold_at)
        environment = {
            **os.environ,
            "MESHSTRAP_LAB": str(self.lab.directory),
            "MESHSTRAP_BUNDLE": str(self.lab.bundle),
            "PYINFRA_PROGRESS": "off",
        }
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "pyinfra"), *self.arguments(bundle, proxy=proxy)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert proxy.held.wait(180), "the run never got that far"
            yield process, proxy
        finally:
            proxy.close()
            if process.poll() is None:
                process.kill()
            process.communicate()
