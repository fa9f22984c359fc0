"""We test that no answer of a node, however strange, ends in a traceback: each of our facts reads it, or says in words
that it cannot; and what preflight reads of a machine, it judges.

The answers are recorded ones of every fact (Debian 12, Kubernetes 1.34.10, Istio 1.31.0), with lines dropped, repeated,
cut, swapped and put in between.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyinfra.api.exceptions import FactProcessError

from meshstrap import facts
from meshstrap.facts.answer import AnswerFact
from meshstrap.facts.preflight import Preflight
from meshstrap.operations import preflight

RECORDED = Path(__file__).with_name("recorded")
ANSWERS: dict[str, list[str]] = {
    **json.loads((RECORDED / "answers.json").read_text()),
    "preflight.Preflight": (RECORDED / "preflight.txt").read_text().splitlines(),
}
# Seen on real machines, or made to hurt.
STRANGE = st.sampled_from(
    [
        "default proto static ", "\tnexthop via 192.0.2.1 dev eth0 weight 1 ", "unreachable 192.0.2.0/24",
        "#", "#routes", "#nosuch", "# ", "", " ", "\x00", "{", "}", "[]", "null", "[[", '"', "Killed",
        "sudo: a password is required", "-bash: warning: setlocale: LC_ALL: cannot change locale",
        "10.0.0.0/33", "fe80::1/64 eth0", "a b c d e f", "-1", "1e9", "nan", "\u0661", "😀", "=", "==",
        "file", "file ", "mark", "conf", "service=", "kubeadm ",
    ]
) | st.text(max_size=12)  # fmt: skip


def all_facts() -> dict[str, type[AnswerFact[Any]]]:
    found = {}
    for module in pkgutil.iter_modules(facts.__path__):
        for name, each in inspect.getmembers(
            importlib.import_module(f"{facts.__name__}.{module.name}"), inspect.isclass
        ):
            if issubclass(each, AnswerFact) and each is not AnswerFact and each.__module__.endswith(module.name):
                found[f"{module.name}.{name}"] = each
    return found


FACTS = all_facts()


def test_there_is_a_recorded_answer_of_every_fact() -> None:
    assert set(FACTS) == set(ANSWERS)


@pytest.mark.parametrize("name", FACTS)
def test_a_recorded_answer_is_read(name: str) -> None:
    assert FACTS[name]().process(ANSWERS[name]) is not None


@st.composite
def hostile(draw: st.DrawFn, lines: list[str]) -> list[str]:
    made = list(lines)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(made)))
        kind = draw(st.sampled_from(["put", "drop", "cut", "twice", "rest", "swap", "append"]))
        if kind == "put" or at == len(made):
            made.insert(at, draw(STRANGE))
        elif kind == "drop":
            del made[at]
        elif kind == "cut":
            made[at] = made[at][: draw(st.integers(0, len(made[at])))]
        elif kind == "twice":
            made.insert(at, made[at])
        elif kind == "rest":
            del made[at:]
        elif kind == "swap":
            made[at] = " ".join(reversed(made[at].split(" ")))
        else:
            made[at] += draw(STRANGE)
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@pytest.mark.parametrize("name", FACTS)
@given(data=st.data())
def test_a_hostile_answer_is_read_or_refused_in_words(name: str, data: st.DataObject) -> None:
    lines = data.draw(hostile(ANSWERS[name]))
    try:
        FACTS[name]().process(lines)
    except FactProcessError as error:
        assert "cannot be read" in str(error)


PLAN = preflight.Plan(
    bundle="images", kubernetes_version="1.34.10", istio_version="1.31.0", allow_unsupported_versions=False,
    pod_cidr="10.244.0.0/16", service_cidr="10.96.0.0/16", cni_manifests=[], ingress_node_port=30191,
    kubelet_config={}, containerd_config={}, accept=[],
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=hostile(ANSWERS["preflight.Preflight"]), control_plane=st.booleans())
def test_a_machine_that_could_be_read_is_judged(lines: list[str], control_plane: bool) -> None:
    try:
        machine = Preflight().process(lines)
    except FactProcessError:
        return
    preflight.judge(machine, preflight.Role("192.0.2.10", control_plane=control_plane), PLAN, now=machine["read_at"])
    preflight.judge_together({"a": machine, "b": machine})


def test_a_sysctl_that_is_no_number_is_none() -> None:
    lines = list(ANSWERS["preflight.Preflight"])
    at = next(index for index, line in enumerate(lines) if line.startswith("fs.inotify.max_user_instances "))
    for strange in ("fs.inotify.max_user_instances proto static", "fs.inotify.max_user_instances", "net.nosuch 1"):
        lines[at] = strange
        machine = Preflight().process(lines)
        assert "fs.inotify.max_user_instances" not in machine["sysctls"]
        assert "net.nosuch" not in machine["sysctls"]
        preflight.judge(machine, preflight.Role("192.0.2.10", control_plane=True), PLAN, now=machine["read_at"])


def test_a_multipath_route_is_one_route() -> None:
    routes = ["default proto static ", *(f"\tnexthop via 192.0.2.{end} dev eth0 weight 1 " for end in (1, 2))]
    lines = [line for line in ANSWERS["preflight.Preflight"] if not line.startswith("default ")]
    at = lines.index("#routes") + 1
    machine = Preflight().process([*lines[:at], *routes, *lines[at:]])
    assert machine["routes"][0] == (
        "default proto static nexthop via 192.0.2.1 dev eth0 weight 1 nexthop via 192.0.2.2 dev eth0 weight 1"
    )
    found = preflight.judge(machine, preflight.Role("192.0.2.10", control_plane=True), PLAN, now=machine["read_at"])
    assert "default-route" not in {finding.check for finding in found}
