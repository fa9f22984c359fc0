"""We test what goes over pyinfra's connection beside pyinfra: commands, streams, tunnels, with and without sudo."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]

DEPLOY = """
import json, socket
from pathlib import Path
from pyinfra.context import host
from pyinfra.operations import python
from pyinfra.api.command import StringCommand
from meshstrap import transport

def sh(script, **arguments):
    result = transport.execute(host, StringCommand(script), **arguments)
    return [result.exit_code, result.stdout, result.stderr]

def many(remote):
    for _ in range(20):
        remote.write(b"x" * 1024 * 1024)

def broken(remote):
    remote.write(b"x")
    raise ValueError("the writer's own")

def work():
    seen = {}
    seen["who"] = sh("id -un")
    seen["plain"] = sh("cat; echo warning >&2; exit 3", stdin=b"in")
    seen["large"] = len(sh("head -c 9000000 /dev/zero | tr '\\\\0' x; head -c 9000000 /dev/zero >&2")[1])
    seen["stream"] = transport.stream(host, StringCommand("wc -c"), many).stdout.strip()
    early = transport.stream(host, StringCommand("head -c 10 >/dev/null; echo full >&2; exit 28"), many)
    seen["early"] = [early.exit_code, early.stderr]
    try:
        transport.stream(host, StringCommand("cat"), broken)
    except ValueError as error:
        seen["broken"] = str(error)
    try:
        sh("sleep 30", timeout=1)
    except transport.TransportError as error:
        seen["timeout"] = str(error)
    with transport.tunnel(host, ("127.0.0.1", 22)) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            seen["tunnel"] = connection.recv(4).decode()
    with transport.tunnel(host, ("127.0.0.1", 9)) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            seen["refused"] = connection.recv(4).decode()
    Path({seen!r}).write_text(json.dumps(seen))

python.call(name="Work", function=work)
"""

USER = """
id tester >/dev/null 2>&1 || useradd -m -s /bin/bash tester
mkdir -p ~tester/.ssh && cp ~/.ssh/authorized_keys ~tester/.ssh/
chown -R tester ~tester/.ssh && chmod 700 ~tester/.ssh && chmod 600 ~tester/.ssh/authorized_keys
echo tester:secret-word | chpasswd
echo '{rule}' >/etc/sudoers.d/tester
"""


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        (None, []),
        ("tester ALL=(ALL) NOPASSWD: ALL", ["--data", "ssh_user=tester", "--data", "_sudo=true"]),
        (
            "tester ALL=(ALL) ALL",
            ["--data", "ssh_user=tester", "--data", "_sudo=true", "--data", "_sudo_password=secret-word"],
        ),
    ],
    ids=["root", "sudo without a password", "sudo with a password"],
)
def test_everything_that_goes_over_the_connection(
    rule: str | None,
    data: list[str],
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    on_node: Callable[..., Finished],
    tmp_path: Path,
) -> None:
    if rule:
        made = on_node(bare_node, "control-1", USER.format(rule=rule))
        assert made.returncode == 0, made.stderr
    seen, deploy = tmp_path / "seen.json", tmp_path / "work.py"
    deploy.write_text(DEPLOY.replace("{seen!r}", repr(str(seen))))
    run = run_pyinfra("inventory.py", str(deploy), "-y", *data, lab=bare_node, timeout=60)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert "Exception ignored" not in output
    assert json.loads(seen.read_text()) == {
        "who": [0, "root\n", ""],
        "plain": [3, "in", "warning\n"],
        "large": 9_000_000,
        "stream": str(20 * 1024 * 1024),
        "early": [28, "full\n"],
        "broken": "the writer's own",
        "timeout": "control-1: no answer within 1 s",
        "tunnel": "SSH-",
        "refused": "",
    }


def test_what_travels_here_is_printed_at_no_verbosity(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], tmp_path: Path
) -> None:
    deploy = tmp_path / "work.py"
    deploy.write_text(
        "from pyinfra.context import host\n"
        "from pyinfra.operations import python\n"
        "from pyinfra.api.command import StringCommand\n"
        "from meshstrap import transport\n"
        "def work():\n"
        "    result = transport.execute(host, StringCommand('cat; echo sec\"\"ret-out'), stdin=b'secret-in')\n"
        "    assert result.stdout == 'secret-insecret-out\\n'\n"
        "python.call(name='Work', function=work)\n"
    )
    run = run_pyinfra("inventory.py", str(deploy), "-y", "-vvv", "--debug", lab=bare_node, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "secret-in" not in run.stdout + run.stderr
    assert "secret-out" not in run.stdout + run.stderr


SLOW_READER = """
import json
from pathlib import Path
import gevent
from paramiko import Channel
from pyinfra.context import host
from pyinfra.operations import python
from pyinfra.api.command import StringCommand
from meshstrap import transport

SIZE = 20 * 1024 * 1024
SLOW = '''
total=0
while n=$(head -c 65536 | wc -c) && [ "$n" -gt 0 ]; do total=$((total + n)); sleep 0.005; done
echo $total
'''

def work():
    packets, beside = [], []
    node = host.connector.host  # pyinfra's own name for it is nobody in another greenlet
    send = Channel._send

    def counted(self, data, message):
        size = send(self, data, message)
        packets.append(size)
        return size

    def write(remote):
        greenlet = gevent.spawn(transport.execute, node, StringCommand("echo heard"), timeout=5)
        remote.write(bytes(SIZE))
        beside.append(greenlet.get().stdout)

    Channel._send = counted
    took = transport.stream(host, StringCommand(SLOW), write).stdout
    Path({seen!r}).write_text(json.dumps([int(took), SIZE / len(packets), beside]))

python.call(name="Work", function=work)
"""


def test_a_slow_reader_gets_whole_packets_and_what_is_asked_beside_it_is_answered(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], tmp_path: Path
) -> None:
    seen, deploy = tmp_path / "seen.json", tmp_path / "work.py"
    deploy.write_text(SLOW_READER.replace("{seen!r}", repr(str(seen))))
    run = run_pyinfra("inventory.py", str(deploy), "-y", lab=bare_node, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    size, a_packet, beside = json.loads(seen.read_text())
    assert size == 20 * 1024 * 1024
    assert beside == ["heard\n"]
    # sshd takes 32 KiB at a time (CHAN_SES_PACKET_DEFAULT of OpenSSH's channels.h), less what the packet itself needs.
    assert a_packet > 0.9 * 32 * 1024
