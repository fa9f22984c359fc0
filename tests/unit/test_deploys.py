"""We test that deploys/ reads as steps: operations with a name, in order, and no logic of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from meshstrap import scenarios

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOYS = sorted((CHECKOUT / "deploys").glob("*.py"))

STATEMENTS = (ast.Import, ast.ImportFrom, ast.Expr, ast.If)
EXPRESSIONS = (
    ast.Call,
    ast.Attribute,
    ast.Name,
    ast.Constant,
    ast.keyword,
    ast.List,
    ast.Dict,
    ast.Starred,
    ast.Subscript,
    ast.expr_context,
)


def _is_group_test(test: ast.expr) -> bool:
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Constant)
        and [type(operator) for operator in test.ops] == [ast.In]
        and ast.unparse(test.comparators[0]) == "host.groups"
    )


def faults(source: str) -> list[str]:
    """Return what in a deploy's source is more than a list of steps."""
    found = []

    def visit(statements: list[ast.stmt]) -> None:
        for statement in statements:
            if not isinstance(statement, STATEMENTS):
                found.append(f"line {statement.lineno}: {type(statement).__name__}")
            elif isinstance(statement, ast.If):
                if not _is_group_test(statement.test) or statement.orelse:
                    found.append(f"line {statement.lineno}: an if that asks for more than a group")
                visit(statement.body)
            elif isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant):
                found.extend(_step_faults(statement.value))

    visit(ast.parse(source).body)
    return found


def _step_faults(step: ast.expr) -> list[str]:
    if not isinstance(step, ast.Call):
        return [f"line {step.lineno}: not a step"]
    found = [
        f"line {step.lineno}: {type(node).__name__} in an argument"
        for node in ast.walk(step)
        if not isinstance(node, EXPRESSIONS)
    ]
    called = ast.unparse(step.func)
    if called.split(".")[0] in {"server", "python"}:
        found.append(f"line {step.lineno}: {called} runs a command of the deploy's own")
    if called != "local.include" and not any(keyword.arg == "name" for keyword in step.keywords):
        found.append(f"line {step.lineno}: {called} has no name for the person who reads the run")
    return found


def test_there_are_deploys() -> None:
    assert {"preflight", "runtime", "images", "cluster", "istio", "canary", "site", "clean", "reset"} <= {
        deploy.stem for deploy in DEPLOYS
    }


@pytest.mark.parametrize("deploy", DEPLOYS, ids=lambda deploy: deploy.stem)
def test_a_deploy_holds_no_logic(deploy: Path) -> None:
    assert faults(deploy.read_text()) == []


@pytest.mark.parametrize("deploy", DEPLOYS, ids=lambda deploy: deploy.stem)
def test_a_deploy_says_what_it_is_for(deploy: Path) -> None:
    assert ast.get_docstring(ast.parse(deploy.read_text()))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("for node in nodes:\n    k8s.node(name='x')", "For"),
        ("if host.data.fast:\n    k8s.node(name='x')", "more than a group"),
        ("k8s.node(name='x', weight=100 - w)", "BinOp"),
        ("k8s.node(name=f'{x}')", "JoinedStr"),
        ("server.shell(name='x', commands=['reboot'])", "command of the deploy's own"),
        ("k8s.node('control-1')", "has no name"),
        ("def step():\n    pass", "FunctionDef"),
    ],
)
def test_logic_in_a_deploy_is_found(source: str, fault: str) -> None:
    assert any(fault in each for each in faults(source))


@pytest.mark.parametrize("deploy", ["scenarios", "verify", "clean"])
def test_every_scenario_is_in_the_deploys_for_all(deploy: str) -> None:
    source = (CHECKOUT / "deploys" / f"{deploy}.py").read_text()
    assert [
        name for name in scenarios.names() if f'"{name}"' not in source and f"deploys/{name}.py" not in source
    ] == []
