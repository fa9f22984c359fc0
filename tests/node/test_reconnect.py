"""We test that an ssh connection lost in mid-run is made again: for what comes next, never for what was under way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Finished = subprocess.CompletedProcess[str]

TOOLS = """
import json, socket, subprocess, time
from pathlib import Path
import gevent
from pyinfra.context import host
from pyinfra.operations import files, python, server
from pyinfra.api.command import QuoteString, StringCommand
from meshstrap import transport
from meshstrap.operations import site

seen = {}

def sh(script, on=host):
    try:
        return transport.execute(on, StringCommand("sh", "-c", QuoteString(script))).stdout.strip()
    except transport.TransportError as error:
        return f"TransportError: {error}"

def cut(first="true"):
    return sh(first + "; " + SSHD + "; kill -9 $sshd; sleep 5")

def soon(signal):
    return SSHD + f'; setsid sh -c "sleep 0.5; kill -{signal} $sshd" >/dev/null 2>&1 </dev/null &'

def banner(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        return connection.recv(4).decode()

def report():
    Path(SEEN).write_text(json.dumps(seen))
"""

USER = """
id tester >/dev/null 2>&1 || useradd -m -s /bin/bash tester
mkdir -p ~tester/.ssh && cp ~/.ssh/authorized_keys ~tester/.ssh/
chown -R tester ~tester/.ssh && chmod 700 ~tester/.ssh && chmod 600 ~tester/.ssh/authorized_keys
echo tester:secret-word | chpasswd
echo 'tester ALL=(ALL) ALL' >/etc/sudoers.d/tester
"""


@pytest.fixture
def work(
    bare_node: Lab, run_pyinfra: Callable[..., Finished], sshd_of_session: str, tmp_path: Path
) -> Callable[..., tuple[Finished, dict[str, Any]]]:
    """Run a deploy with the tools above on the bare node: work(body, *arguments) -> (its run, what it has seen)."""

    def run(body: str, *arguments: str) -> tuple[Finished, dict[str, Any]]:
        deploy, seen = tmp_path / "work.py", tmp_path / "seen.json"
        deploy.write_text(f"{TOOLS}\nSSHD = {sshd_of_session!r}\nSEEN = {str(seen)!r}\n{body}")
        done = run_pyinfra("inventory.py", str(deploy), "-y", *arguments, lab=bare_node, timeout=120)
        return done, json.loads(seen.read_text()) if seen.exists() else {}

    return run


def said(run: Finished) -> str:
    return run.stdout + run.stderr


def test_a_command_under_way_fails_once_and_what_comes_next_works(
    work: Callable[..., tuple[Finished, dict[str, Any]]],
) -> None:
    run, seen = work("""
def work():
    sh("rm -f /run/ran")
    with transport.tunnel(host, ("127.0.0.1", 22)) as port:
        seen["through the first"] = banner(port)
        seen["under way"] = cut("echo ran >>/run/ran")
        seen["through the second"] = banner(port)
    seen["runs"] = sh("cat /run/ran")
    connection = host.connector.client.get_transport()
    seen["nodelay"] = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    seen["unacknowledged"] = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    report()

python.call(name="Work", function=work)
""")
    assert run.returncode == 0, said(run)
    lost = seen.pop("under way")
    assert lost.startswith("TransportError: control-1: the ssh connection was lost while a command ran"), lost
    assert seen == {
        "through the first": "SSH-",
        "through the second": "SSH-",
        "runs": "ran",
        "nodelay": 1,
        "unacknowledged": 60_000,
    }
    assert said(run).count("has been made again") == 1


def test_a_fact_finds_the_connection_made_again(work: Callable[..., tuple[Finished, dict[str, Any]]]) -> None:
    run, seen = work("""
from pyinfra.facts.server import Hostname
from meshstrap.operations import reach

def work():
    cut()
    seen["name"] = reach.fact(host, Hostname)
    report()

python.call(name="Work", function=work)
""")
    assert run.returncode == 0, said(run)
    assert seen == {"name": "control-1"}


def test_many_who_need_it_at_once_make_one_connection(work: Callable[..., tuple[Finished, dict[str, Any]]]) -> None:
    run, seen = work("""
def work():
    seen["before"] = sh("echo $SSH_CONNECTION")
    cut()
    node = next(iter(host.inventory))  # What `host` means is another thing in another greenlet.
    tasks = [gevent.spawn(sh, "echo $SSH_CONNECTION", node) for _ in range(8)]
    gevent.joinall(tasks)
    seen["after"] = [task.value for task in tasks]
    report()

python.call(name="Work", function=work)
""")
    assert run.returncode == 0, said(run)
    assert len(seen["after"]) == 8
    assert len(set(seen["after"])) == 1, seen
    assert re.fullmatch(r"\S+ \d+ \S+ \d+", seen["after"][0])
    assert seen["before"] != seen["after"][0]


def test_it_is_made_again_through_a_jump_host(
    work: Callable[..., tuple[Finished, dict[str, Any]]], bare_node: Lab, tmp_path: Path
) -> None:
    node = read(bare_node.nodes_file).node("control-1")
    pinned = bare_node.known_hosts.read_text()
    known_hosts, config = tmp_path / "known_hosts", tmp_path / "ssh_config"
    known_hosts.write_text(f"{pinned}{node.address} {' '.join(pinned.split()[1:3])}\n")
    config.write_text(
        f"Host jump\n HostName {node.ssh_host}\n Port {node.ssh_port}\n User root\n IdentityFile {bare_node.key}\n"
        f" UserKnownHostsFile {known_hosts}\nHost {node.address}\n ProxyJump jump\n"
    )
    data = {
        "ssh_hostname": node.address,
        "ssh_port": "22",
        "ssh_config_file": str(config),
        "ssh_known_hosts_file": str(known_hosts),
    }
    run, seen = work(
        """
def work():
    seen["client before"] = sh("echo $SSH_CONNECTION").split()
    seen["under way"] = cut()
    seen["client after"] = sh("echo $SSH_CONNECTION").split()
    report()

python.call(name="Work", function=work)
""",
        *(word for key, value in data.items() for word in ("--data", f"{key}={value}")),
    )
    assert run.returncode == 0, said(run)
    assert "lost while a command ran" in seen["under way"]
    before, after = seen["client before"], seen["client after"]
    assert before[0] == after[0] == node.address, seen
    assert before[1] != after[1]


def test_a_password_for_sudo_serves_the_new_connection_though_the_node_has_restarted(
    work: Callable[..., tuple[Finished, dict[str, Any]]], on_node: Callable[..., Finished], bare_node: Lab
) -> None:
    made = on_node(bare_node, "control-1", USER)
    assert made.returncode == 0, made.stderr
    # Of the last time, and of a restart, nothing is left in /tmp.
    body = """
def work():
    seen["before"] = sh("id -un")
    cut("rm /tmp/pyinfra-sudo-askpass-*")
    seen["after"] = sh("id -un")
    report()

python.call(name="Work", function=work)
"""
    data = ["--data", "ssh_user=tester", "--data", "_sudo=true", "--data", "_sudo_password=secret-word"]
    run, seen = work(body, *data)
    assert run.returncode == 0, said(run)
    assert seen == {"before": "root", "after": "root"}
    left = on_node(bare_node, "control-1", "ls /tmp/pyinfra-sudo-askpass-* 2>/dev/null")
    assert left.stdout == ""


def test_a_run_survives_the_loss_between_two_operations_of_pyinfras_own(
    work: Callable[..., tuple[Finished, dict[str, Any]]],
    on_node: Callable[..., Finished],
    bare_node: Lab,
    tmp_path: Path,
) -> None:
    (tmp_path / "content").write_text("as declared\n")
    run, seen = work(f"""
site.lock(name="One operator at a time")
files.put(name="Put by the first connection", src={str(tmp_path / "content")!r}, dest="/run/first")
server.shell(name="Lose it soon", commands=[soon("KILL")])
python.call(name="Until it is lost", function=lambda: time.sleep(1.5))
server.shell(name="Next", commands=["echo next >/run/next"])
files.put(name="Put by the second", src={str(tmp_path / "content")!r}, dest="/run/second")

def work():
    seen["lock"] = sh("flock -n /run/meshstrap.lock true && echo free || cat /run/meshstrap.lock")
    report()

python.call(name="Work", function=work)
""")
    assert run.returncode == 0, said(run)
    assert said(run).count("has been made again") == 1
    assert "Took over" not in said(run)
    assert re.search(r"\(pid \d+\), started .* UTC, held on this node by pid \d+", seen["lock"]), seen
    left = on_node(bare_node, "control-1", "cat /run/next /run/first /run/second; rm /run/next /run/first /run/second")
    assert left.stdout == "next\nas declared\nas declared\n"
    assert on_node(bare_node, "control-1", "cat /run/meshstrap.lock").stdout == ""


def test_the_lock_is_taken_from_this_runs_own_shell_where_the_node_has_not_noticed(
    work: Callable[..., tuple[Finished, dict[str, Any]]],
) -> None:
    run, seen = work("""
site.lock(name="One operator at a time")

def work():
    seen["before"] = sh("cat /run/meshstrap.lock")
    # A daemon that is stopped reads nothing, not even the end of its connection.
    sshd = sh(soon("STOP") + " echo $sshd")
    time.sleep(1.5)
    host.connector.client.get_transport().close()
    seen["after"] = sh("flock -n /run/meshstrap.lock true && echo free || cat /run/meshstrap.lock")
    sh(f"kill -KILL {sshd}")
    seen["without it"] = sh("flock -n /run/meshstrap.lock true && echo free || cat /run/meshstrap.lock")
    report()

python.call(name="Work", function=work)
""")
    assert run.returncode == 0, said(run)
    run_of_lock, _, shell = seen["before"].rpartition(" ")
    assert seen["after"].startswith(run_of_lock), seen
    assert seen["after"].rpartition(" ")[2] != shell
    assert seen["without it"] == seen["after"]


def test_the_lock_is_taken_again_where_pyinfra_itself_connects_again(
    work: Callable[..., tuple[Finished, dict[str, Any]]],
) -> None:
    run, seen = work("""
site.lock(name="One operator at a time")

def work():
    seen["before"] = sh("cat /run/meshstrap.lock")
    host.disconnect()  # As pyinfra's server.reboot does.
    host.connect()
    seen["after"] = sh("flock -n /run/meshstrap.lock true && echo free || cat /run/meshstrap.lock")
    report()

python.call(name="Work", function=work)
""")
    assert run.returncode == 0, said(run)
    run_of_lock, _, shell = seen["before"].rpartition(" ")
    assert seen["after"].startswith(run_of_lock), seen
    assert seen["after"].rpartition(" ")[2] != shell


def test_a_run_whose_lock_another_had_meanwhile_stops(
    work: Callable[..., tuple[Finished, dict[str, Any]]], checkout: Path, bare_node: Lab, tmp_path: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text(
        "from pyinfra.operations import server\nfrom meshstrap.operations import site\n"
        "site.lock(name='One operator at a time')\nserver.shell(name='Other work', commands=['true'])\n"
    )
    command = [str(Path(sys.executable).parent / "pyinfra"), "inventory.py", str(other), "-y"]
    run, seen = work(f"""
site.lock(name="One operator at a time")

def work():
    cut()
    other = subprocess.run({command!r}, cwd={str(checkout)!r}, capture_output=True, text=True)
    seen["other"] = [other.returncode, "Took over the lock of a run that died" in other.stdout + other.stderr]
    seen["next"] = sh("true")
    report()

python.call(name="Work", function=work)
server.shell(name="What comes after", commands=["touch /run/came-after"])
""")
    assert seen["other"] == [0, True]
    assert "another run was at work while the ssh connection was lost" in seen["next"], seen
    assert run.returncode == 1, said(run)
    assert "Traceback" not in said(run)
    assert "another run was at work" in said(run).partition("What comes after")[2]


def test_the_lock_goes_on_after_a_restart_that_left_no_lock_file(
    work: Callable[..., tuple[Finished, dict[str, Any]]],
) -> None:
    run, seen = work("""
site.lock(name="One operator at a time")

def work():
    cut("rm /run/meshstrap.lock")
    seen["after"] = sh("flock -n /run/meshstrap.lock true && echo free || cat /run/meshstrap.lock")
    report()

python.call(name="Work", function=work)
""")
    assert run.returncode == 0, said(run)
    assert "held on this node by pid" in seen["after"], seen
