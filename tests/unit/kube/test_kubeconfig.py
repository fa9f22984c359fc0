"""Ordinary kubeconfig files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshstrap.kube.errors import KubeError
from meshstrap.kube.kubeconfig import read


def _file(path: Path, name: str, *, current: bool = True) -> Path:
    text = f"""
apiVersion: v1
kind: Config
contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}}}}}]
clusters: [{{name: {name}, cluster: {{server: "https://{name}", certificate-authority: pki/ca.crt}}}}]
users: [{{name: {name}, user: {{client-key: /absolute.key}}}}]
"""
    path.write_text(text + (f"current-context: {name}\n" if current else ""))
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    found = read(_file(tmp_path / "config", "one"))
    assert found["clusters"][0]["cluster"]["certificate-authority"] == str(tmp_path / "pki" / "ca.crt")
    assert found["users"][0]["user"]["client-key"] == "/absolute.key"
    assert found["current-context"] == "one"


def test_the_environment_names_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = _file(tmp_path / "a", "one", current=False), _file(tmp_path / "b", "two")
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([str(one), str(tmp_path / "gone"), str(two)]))
    found = read()
    assert found["current-context"] == "two"
    assert [entry["name"] for entry in found["clusters"]] == ["one", "two"]


def test_the_home_directory_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KubeError, match=r"\.kube/config cannot be read: No such file"):
        read()
    (tmp_path / ".kube").mkdir()
    _file(tmp_path / ".kube" / "config", "home")
    assert read()["current-context"] == "home"


def test_nothing_of_a_damaged_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("users: [{name: a, user: {token: top-secret-token")
    with pytest.raises(KubeError) as error:
        read(path)
    assert str(error.value) == f"kubeconfig {path} is no YAML"
    path.write_text("- a\n")
    with pytest.raises(KubeError, match="holds no mapping"):
        read(path)
    path.write_text("users: [top-secret-token]\n")
    with pytest.raises(KubeError, match="users is no list of mappings"):
        read(path)


@pytest.mark.parametrize(
    ("command", "found"), [("./bin/plugin", "bin/plugin"), ("plugin", None), ("/bin/sh", "/bin/sh")]
)
def test_a_plugin_is_relative_to_the_file_unless_a_bare_name(tmp_path: Path, command: str, found: str | None) -> None:
    path = tmp_path / "config"
    path.write_text(f"users: [{{name: a, user: {{exec: {{command: {command}}}}}}}]\n")
    wanted = command if found is None else str(tmp_path / found)
    assert read(path)["users"][0]["user"]["exec"]["command"] == wanted
