"""The one module that touches pyinfra's ssh connection: execute, stream, hold and tunnel.

pyinfra prints what facts and operations run at ``-vvv``. What travels through here is not printed at any verbosity, so
that join tokens and the kubeconfig can. Access is what the host's data says: root, sudo without and with a password.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import gevent
from gevent.server import StreamServer
from paramiko import Channel, ChannelException, SSHException, Transport
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import make_unix_command_for_host
from typing_extensions import override

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# A refused channel is raised to the caller, whose words the person reads; paramiko's own line would stand beside them.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_PASSWORDLESS = "set _sudo_password in the inventory, or allow this user passwordless sudo on the node"
_BUFFER = 256 * 1024
_KEEPALIVE_SECONDS = 15
# How long sent data may stay unacknowledged: a node that lost its power answers nothing, not even with a reset.
_UNACKNOWLEDGED_MS = 60_000
_ADMINISTRATIVELY_PROHIBITED = 1  # RFC 4254, section 5.1
# What pyinfra's run_shell_command takes for itself and make_unix_command does not know.
_NOT_FOR_THE_COMMAND = {"_get_pty", "_timeout", "_stdin", "_success_exit_codes"}


class TransportError(Exception):
    """The ssh connection is gone, or the host has none. Names the host."""


@dataclass(frozen=True)
class Result:
    """What a remote command left: its exit code, standard output and standard error."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the command exited with 0."""
        return self.exit_code == 0


class Remote:
    """A remote command that is still running: a line in, a line out. Ends with the connection at the latest."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._stdout = channel.makefile("r")

    def read_line(self) -> str:
        """Return the next line of standard output without its end, or an empty string where the command ended."""
        return cast(str, self._stdout.readline()).rstrip("\n")

    def finish(self, line: str | None = None) -> Result:
        """Send a last line (when given), close standard input and return what the command leaves."""
        with contextlib.suppress(OSError):
            if line is not None:
                self._channel.sendall(f"{line}\n".encode())
            self._channel.shutdown_write()
        stdout = cast(str, self._stdout.read())
        stderr = self._channel.makefile_stderr("r").read().decode(errors="replace")
        return Result(self._channel.recv_exit_status(), stdout, stderr)


def execute(host: Host, command: StringCommand, *, stdin: bytes | None = None, timeout: float | None = None) -> Result:
    """Run a command on a host, unprinted and unlogged, and return what it left.

    Args:
        host: a connected pyinfra host.
        command: what a POSIX shell runs; sudo is put around it as the host's data says.
        stdin: standard input; closed at once where there is none.
        timeout: seconds after which the command is given up; None waits for its end.

    Raises:
        TransportError: the connection is gone, or the time is up.

    """

    def write(remote: BinaryIO) -> None:
        if stdin:
            remote.write(stdin)

    return stream(host, command, write, timeout=timeout)


def stream(
    host: Host,
    command: StringCommand,
    write: Callable[[BinaryIO], None],
    *,
    timeout: float | None = None,
) -> Result:
    """Run a command on a host with a standard input that is written while it runs.

    Args:
        host: a connected pyinfra host.
        command: what a POSIX shell runs; sudo is put around it as the host's data says.
        write: is called once with the remote standard input. A command that ends before all is written is no error
            here: its exit code and standard error say why. What write itself raises ends the command and is raised.
        timeout: seconds after which the command is given up; None waits for its end.

    Raises:
        TransportError: the connection is gone, or the time is up.

    """
    channel = _session(host, command)
    stdout = gevent.spawn(_drain, channel.recv)
    stderr = gevent.spawn(_drain, channel.recv_stderr)
    try:
        with gevent.Timeout(timeout):
            with _until_closed(channel):
                write(cast(BinaryIO, _Stdin(channel)))
            with contextlib.suppress(OSError):
                channel.shutdown_write()
            gevent.joinall([stdout, stderr])
            exit_code = channel.recv_exit_status()
    except gevent.Timeout:
        raise TransportError(f"{host.name}: no answer within {timeout:.0f} s") from None
    finally:
        channel.close()
    if exit_code == -1 and not _alive(host):
        raise TransportError(f"{host.name}: the ssh connection was lost; run it again when the node answers")
    return Result(exit_code, stdout.get().decode(errors="replace"), stderr.get().decode(errors="replace"))


def authorise(host: Host) -> None:
    """Make sure that commands run with the rights that the host's data asks for; a password is prompted for once.

    Only pyinfra's own commands prompt, and what was typed serves this module's commands too.

    Raises:
        TransportError: sudo refuses, or needs a password that nobody is there to type.

    """
    try:
        ok, output = host.run_shell_command(StringCommand("true"), **_arguments(host))
    except EOFError:
        raise TransportError(f"{host.name}: sudo needs a password; {_PASSWORDLESS}") from None
    except (SSHException, OSError) as error:
        raise TransportError(f"{host.name}: cannot run a command over ssh: {error}") from error
    if not ok:
        raise TransportError(
            f"{host.name}: no rights: {output.stderr.strip() or output.stdout.strip()}; {_PASSWORDLESS}"
        )


def hold(host: Host, command: StringCommand) -> Remote:
    """Start a command that goes on as long as the connection does, and return it.

    Raises:
        TransportError: the connection is gone.

    """
    return Remote(_session(host, command))


@contextlib.contextmanager
def tunnel(host: Host, remote: tuple[str, int] = ("127.0.0.1", 6443)) -> Iterator[int]:
    """Open a port on 127.0.0.1 that leads to an address as the host sees it.

    Args:
        host: a connected pyinfra host.
        remote: address and port, connected to from the host.

    Yields:
        The local port; it is closed at the end of the context.

    Raises:
        TransportError: the connection is gone, or the host's sshd forbids forwarding.

    """
    connection = _connection(host)
    try:
        connection.open_channel("direct-tcpip", remote, ("127.0.0.1", 0)).close()
    except ChannelException as error:
        if error.code == _ADMINISTRATIVELY_PROHIBITED:
            raise TransportError(
                f"{host.name}: sshd forbids forwarding to {remote[0]}:{remote[1]}; "
                "allow it there (AllowTcpForwarding, PermitOpen) for this user"
            ) from error
        # Nobody listens there now: whoever connects is told so, and may try again.
    except (SSHException, OSError, EOFError) as error:
        raise TransportError(f"{host.name}: cannot forward a port over ssh: {error}") from error

    def serve(local: socket.socket, peer: tuple[str, int]) -> None:
        with local:
            try:
                channel = connection.open_channel("direct-tcpip", remote, peer)
            except (SSHException, OSError):
                return  # The caller's client sees its connection closed and says so for the address it wanted.
            local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with channel:
                pumps = [gevent.spawn(_pump, local, channel), gevent.spawn(_pump, channel, local)]
                gevent.joinall(pumps)

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    try:
        yield server.server_port
    finally:
        server.stop(timeout=0)


class _Stdin(io.RawIOBase):
    """A remote standard input without a buffer: nothing is left to flush when the far end has gone."""

    def __init__(self, channel: Channel):
        self._channel = channel

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        self._channel.sendall(cast(bytes, view))
        return len(view)


def _connection(host: Host) -> Transport:
    connector = host.connector
    if not isinstance(connector, SSHConnector):
        raise TransportError(f"{host.name}: is not reached by ssh, which this operation needs")
    connection = connector.client.get_transport() if connector.client else None
    if connection is None or not connection.is_active():
        raise TransportError(f"{host.name}: the ssh connection was lost; run it again when the node answers")
    # paramiko leaves Nagle's algorithm on, which costs an exec 40 ms (measured: 48 ms against 6 ms).
    cast(socket.socket, connection.sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    cast(socket.socket, connection.sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    connection.set_keepalive(_KEEPALIVE_SECONDS)
    return connection


def _alive(host: Host) -> bool:
    try:
        return _connection(host).is_active()
    except TransportError:
        return False


def _session(host: Host, command: StringCommand) -> Channel:
    try:
        channel = _connection(host).open_session()
        channel.exec_command(_privileged(host, command))
    except (SSHException, OSError, EOFError) as error:
        raise TransportError(f"{host.name}: cannot run a command over ssh: {error}") from error
    return channel


def _privileged(host: Host, command: StringCommand) -> str:
    return make_unix_command_for_host(host.state, host, command, **_arguments(host)).get_raw_value()


def _arguments(host: Host) -> dict[str, Any]:
    given = dict(host.current_op_global_arguments or {})
    arguments, _ = pop_global_arguments(host.state, host, given)
    return {
        key: value
        for key, value in arguments.items()
        if key in CONNECTOR_ARGUMENT_KEYS and key not in _NOT_FOR_THE_COMMAND
    }


@contextlib.contextmanager
def _until_closed(channel: Channel) -> Iterator[None]:
    try:
        yield
    except OSError:
        # The far end stopped reading: what it printed and its exit code tell more than "socket is closed".
        if not (channel.closed or channel.exit_status_ready() or channel.eof_received):
            raise


def _drain(receive: Callable[[int], bytes]) -> bytes:
    parts = []
    while part := receive(_BUFFER):
        parts.append(part)
    return b"".join(parts)


def _pump(source: socket.socket | Channel, sink: socket.socket | Channel) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := source.recv(_BUFFER):
            sink.sendall(data)
    with contextlib.suppress(OSError, EOFError):
        if isinstance(sink, Channel):
            sink.shutdown_write()
        else:
            sink.shutdown(socket.SHUT_WR)
