"""The one module that touches pyinfra's ssh connection: execute, stream, hold, tunnel, and make it again when lost.

pyinfra prints what facts and operations run at ``-vvv``. What travels through here is not printed at any verbosity, so
that join tokens and the kubeconfig can. Access is what the host's data says: root, sudo without and with a password.

A command under way when its connection is lost fails: nobody knows what it has done. Whatever comes next, pyinfra's own
operations too, finds a connection made again.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import gevent
from gevent.server import StreamServer
from paramiko import Channel, ChannelException, SSHException, Transport
from pyinfra import logger
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import make_unix_command_for_host, remove_any_sudo_askpass_file
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
# A far end that is slower than the line opens its window some 40 KB at a time. To be woken by each, and to send short
# packets, costs half as much processor time again: where the window is wide (OpenSSH's: 2 MiB), half of it is
# waited for, this long at most.
_BURST = 1 << 20
_LOOK_SECONDS = 0.01
_PATIENCE_SECONDS = 1.0
# What the kernel keeps back meanwhile, so that not every word of the far end wakes this process.
_UNHEARD = 4096
_ADMINISTRATIVELY_PROHIBITED = 1  # RFC 4254, section 5.1
_FORWARD_SECONDS = 20.0
# Makes two programs that print the password that pyinfra puts into their environment, and names the first. The other
# answers one time and is gone: sudo asks up to three times in each command, and a few failures lock an account. That
# sudo then finds no answer is one failure more to pam_faillock; sudo lets nobody but root stop it before.
_ASKPASS = r"""
umask 077
for d in "${TMPDIR:-/tmp}" "$HOME" "/run/user/$(id -u)" /var/tmp /dev/shm; do
    new=$(mktemp "$d/pyinfra-sudo-askpass-XXXXXXXXXXXX" 2>/dev/null) || continue
    cat >"$new" <<'END'
#!/bin/sh
printf '%s\n' "$PYINFRA_SUDO_PASSWORD"
END
    cat >"$new.once" <<'END'
#!/bin/sh
rm -f "$0"
printf '%s\n' "$PYINFRA_SUDO_PASSWORD"
END
    chmod 700 "$new" "$new.once"
    if "$new" >/dev/null 2>&1; then echo "$new"; exit 0; fi
    rm -f "$new" "$new.once"
done
exit 1
"""
# What pyinfra's run_shell_command takes for itself and make_unix_command does not know.
_NOT_FOR_THE_COMMAND = {"_get_pty", "_timeout", "_stdin", "_success_exit_codes"}


class TransportError(Exception):
    """The ssh connection was lost under a command or cannot be made again, or the host has none. Names the host."""


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
        with contextlib.suppress(OSError, EOFError):
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
        TransportError: the connection was lost while the command ran or cannot be made, or the time is up.

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
        TransportError: the connection was lost while the command ran or cannot be made, or the time is up.

    """
    channel = _session(host, command)
    stdout = gevent.spawn(_drain, channel.recv)
    stderr = gevent.spawn(_drain, channel.recv_stderr)
    try:
        with gevent.Timeout(timeout):
            with _until_closed(channel):
                write(cast(BinaryIO, _Stdin(channel)))
            with contextlib.suppress(OSError, EOFError):
                channel.shutdown_write()
            gevent.joinall([stdout, stderr])
            exit_code = channel.recv_exit_status()
    except gevent.Timeout:
        raise TransportError(f"{host.name}: no answer within {timeout:.0f} s") from None
    finally:
        with contextlib.suppress(OSError, EOFError):
            channel.close()
    if exit_code == -1 and not channel.get_transport().is_active():
        raise TransportError(
            f"{host.name}: the ssh connection was lost while a command ran, which may have done its work or a part of"
            " it; run this again"
        )
    return Result(exit_code, stdout.get().decode(errors="replace"), stderr.get().decode(errors="replace"))


def authorise(host: Host) -> None:
    """Make sure that commands run with the rights that the host's data asks for; a password is prompted for once.

    Only pyinfra's own commands prompt, and what was typed serves this module's commands too. A password that sudo
    refuses is tried once in a run, since a few failures lock an account (pam_faillock).

    Raises:
        TransportError: sudo refuses, or needs a password that nobody is there to type; or the host does not answer.

    """
    reconnect(host)
    check_password(host)
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


def check_password(host: Host) -> None:
    """Try the password that a host's data gives for sudo, or a person typed, once in a run; without one do nothing.

    The program that answers sudo (askpass) stands where programs may run: /tmp may be mounted noexec.

    Raises:
        TransportError: sudo refuses the password, or did in this run; or no place on the host runs programs.

    """
    host = _itself(host)
    arguments = _arguments(host)
    password = arguments.get("_sudo_password") or host.connector_data.get("prompted_sudo_password")
    if not (arguments.get("_sudo") and password and host.connected):
        return
    if trouble := _refused.get(host):
        raise TransportError(trouble)
    directory = arguments.get("_temp_dir") or host.get_temp_dir_config()  # type: ignore[no-untyped-call]
    key = f"sudo_askpass_path__{directory}"  # pyinfra's own name for it
    if host.connector_data.get(key):
        return
    try:
        ok, output = host.run_shell_command(StringCommand("sh", "-c", QuoteString(_ASKPASS)))
        if not ok or not output.stdout_lines:
            raise TransportError(
                f"{host.name}: this user may run no program from /tmp, the home directory, /run/user, /var/tmp or"
                " /dev/shm (mounted noexec?), so sudo cannot be given a password; allow it in one of them, or allow"
                " this user passwordless sudo on the node"
            )
        path = output.stdout_lines[-1]
        host.connector_data[key] = f"{path}.once"
        ok, output = host.run_shell_command(StringCommand("true"), **arguments)
        gone = [f"{path}.once", *([] if ok else [path])]
        host.run_shell_command(StringCommand("rm -f", *map(QuoteString, gone)))
    except (SSHException, OSError) as error:
        host.connector_data[key] = None
        raise TransportError(f"{host.name}: cannot run a command over ssh: {error}") from error
    host.connector_data[key] = path if ok else None
    if not ok:
        said = "; ".join(line.strip() for line in output.stderr_lines if line.strip() and path not in line)
        _refused[host] = (
            f"{host.name}: sudo refuses the password, which was tried once: {said}; put _sudo_password right in the"
            " inventory"
        )
        host.log(_refused[host], logger.error)  # In --dry nobody else says it.
        raise TransportError(_refused[host])


def hold(host: Host, command: StringCommand) -> Remote:
    """Start a command that goes on as long as the connection does, and return it.

    Where the connection is made again the command is not: pyinfra's callback `host_connect` says when to start anew.

    Raises:
        TransportError: the connection cannot be made.

    """
    return Remote(_session(host, command))


def reconnect(host: Host) -> None:
    """Make the ssh connection again where it was lost, so that what pyinfra itself runs next finds it.

    Nothing happens where it stands, was never made, or where the host is not reached by ssh.

    Raises:
        TransportError: it cannot be made.

    """
    if host.connected and isinstance(host.connector, SSHConnector):
        _connection(host)


@contextlib.contextmanager
def tunnel(
    host: Host, remote: tuple[str, int] = ("127.0.0.1", 6443), *, timeout: float = _FORWARD_SECONDS
) -> Iterator[int]:
    """Open a port on 127.0.0.1 that leads to an address as the host sees it.

    It stays open when the ssh connection is lost: those who come to it next are led through one made again.

    Args:
        host: a connected pyinfra host.
        remote: address and port, connected to from the host.
        timeout: seconds that the host may take to connect: where a filter drops packets, it would try for two minutes.

    Yields:
        The local port; it is closed at the end of the context.

    Raises:
        TransportError: the connection cannot be made, the host's sshd forbids forwarding, or nothing answered in time.

    """
    host = _itself(host)
    try:
        _channel(host, "direct-tcpip", remote, ("127.0.0.1", 0), timeout).close()
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
                channel = _channel(host, "direct-tcpip", remote, peer, timeout)
            except (SSHException, OSError, EOFError, TransportError):
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
        self._wide = channel.out_window_size >= 2 * _BURST

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), _BURST):
                burst = view[start : start + _BURST]
                if self._wide:
                    _await_window(self._channel, len(burst))
                self._channel.sendall(cast(bytes, burst))
        except EOFError:  # paramiko's word for it
            raise ConnectionError("the ssh connection was lost") from None
        return len(view)


class _Reconnecting(BaseStateCallback):
    """Before each operation, pyinfra's own ones too, the connection is made again where it was lost."""

    @override
    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        try:
            reconnect(host)
        except TransportError as error:
            host.log(str(error), logger.error)  # The operation finds its connection dead, and fails this host alone.


_reconnecting = _Reconnecting()
# Whoever needs a lost connection waits for the one attempt that is under way, and shares its end.
_attempts: dict[Host, gevent.Greenlet] = {}
# Whose sudo refused the password in this run, and what there is to say of it.
_refused: dict[Host, str] = {}


def _itself(host: Host) -> Host:
    """Return the host behind pyinfra's context, which names another host, or none, in another greenlet."""
    return host.connector.host


def _connection(host: Host) -> Transport:
    host = _itself(host)
    connector = host.connector
    if not isinstance(connector, SSHConnector):
        raise TransportError(f"{host.name}: is not reached by ssh, which this operation needs")
    attempt = _attempts.get(host)
    if attempt is None and _active(connector) is None:
        if not host.connected:
            raise TransportError(f"{host.name}: there is no ssh connection; run this again when the node answers")
        attempt = _attempts[host] = gevent.spawn(_connect_again, host, connector)
    # What is done within an attempt, on the new connection, does not wait for its own end.
    if attempt not in (None, gevent.getcurrent()) and (trouble := attempt.get()):
        raise TransportError(f"{host.name}: the ssh connection was lost and cannot be made again: {trouble}")
    connection = _active(connector)
    if connection is None:
        raise TransportError(f"{host.name}: the ssh connection was lost again at once; run this again")
    # Through a jump host or a ProxyCommand there is no socket of ours.
    if isinstance(connection.sock, socket.socket):
        # paramiko leaves Nagle's algorithm on, which costs an exec 40 ms (measured: 48 ms against 6 ms).
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    connection.set_keepalive(_KEEPALIVE_SECONDS)
    if _reconnecting not in host.state.callback_handlers:
        host.state.add_callback_handler(_reconnecting)  # type: ignore[no-untyped-call]
    return connection


def _active(connector: SSHConnector) -> Transport | None:
    connection = connector.client.get_transport() if connector.client else None
    return connection if connection is not None and connection.is_active() else None


def _connect_again(host: Host, connector: SSHConnector) -> str:
    """Connect as pyinfra did the first time; return what was in the way, empty where it is done."""
    lost = connector.client
    # A copy connects, with the same data: meanwhile, and where it fails, pyinfra's own commands meet the dead client,
    # for which it has words. One without a transport would end the whole run.
    made = copy.copy(connector)
    try:
        made.connect()
        connector.client = made.client
        connector.disconnect()  # What pyinfra keeps for file transfers belongs to the lost connection.
        remove_any_sudo_askpass_file(host)  # The node may have restarted, and have none; made anew when needed.
        host.state.trigger_callbacks("host_connect", host)
    except (PyinfraError, TransportError) as error:
        connector.client = lost
        if connection := _active(made):
            connection.close()
        return str(error)
    finally:
        del _attempts[host]
    host.log("The ssh connection was lost and has been made again", logger.warning)
    return ""


def _channel(
    host: Host,
    kind: str,
    to: tuple[str, int] | None = None,
    by: tuple[str, int] | None = None,
    timeout: float | None = None,
) -> Channel:
    """Open a channel; where the connection turns out to be dead, on one made again: the node was asked nothing yet."""
    connection = _connection(host)
    try:
        return connection.open_channel(kind, to, by, timeout=timeout)
    except (SSHException, OSError, EOFError):
        if connection.is_active():
            raise
    return _connection(host).open_channel(kind, to, by, timeout=timeout)


def _session(host: Host, command: StringCommand) -> Channel:
    try:
        channel = _channel(host, "session")
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


def _await_window(channel: Channel, size: int) -> None:
    """Wait until a channel takes so many bytes at once, or is closed, or patience ends: then sendall waits."""
    connection = channel.get_transport()
    until = time.monotonic() + _PATIENCE_SECONDS
    while channel.out_window_size < size and not channel.closed and time.monotonic() < until:
        _wake_for(connection, _UNHEARD)
        try:
            gevent.sleep(_LOOK_SECONDS)
        finally:
            _wake_for(connection, 1)
        # paramiko reads now what was kept back.
        gevent.sleep(_LOOK_SECONDS / 100)


def _wake_for(connection: Transport, size: int) -> None:
    """Let the kernel wake this process for so many bytes from the far end; for the connection's end it always does."""
    if isinstance(connection.sock, socket.socket):
        with contextlib.suppress(OSError):  # It is closed: the channel says so.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


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
