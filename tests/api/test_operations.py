"""We test these aspects of the operations `k8s.manifests` and `k8s.namespace` as people run them, by pyinfra on @local
with an ordinary kubeconfig: the second run changes nothing; `--dry` tells the truth, `--diff` shows YAML; what is
wrong is told in words and touches nothing; what was changed is kept as data; no secret is printed at any verbosity.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshstrap.kube.connect import Client

from .apiserver import ApiServer
from .objects import config_map, deployment, live, patch, secret, set_status

Finished = subprocess.CompletedProcess[str]
Item = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """A directory with an inventory of @local, whose deploy is written anew for each run."""

    directory: Path
    run_pyinfra: Callable[..., Finished]

    def run(self, step: str, *arguments: str, **settings: Any) -> Finished:
        """Run a deploy of the given step(s), with -y unless it is a dry run."""
        self.write(step)
        given = [*arguments, *([] if "--dry" in arguments else ["-y"])]
        return self.run_pyinfra("inventory.py", "deploy.py", *given, cwd=self.directory, **settings)

    def write(self, step: str) -> None:
        (self.directory / "deploy.py").write_text(f"from meshstrap.operations import k8s\n\n{step}\n")

    def manifests(self, *objects: Item) -> str:
        """Write a manifest and return its name, quoted."""
        (self.directory / "objects.yaml").write_text(yaml.safe_dump_all(objects, sort_keys=False))
        return '"objects.yaml"'

    def reports(self) -> list[Item]:
        found = sorted((self.directory / "reports").glob("*-changes.json"))
        return [json.loads(path.read_text()) for path in found]


@pytest.fixture
def site(api_server: ApiServer, tmp_path: Path, run_pyinfra: Callable[..., Finished]) -> Site:
    data = {"kubeconfig": str(api_server.directory / "kubeconfig"), "reports": "reports"}
    (tmp_path / "inventory.py").write_text(f"hosts = [('@local', {data!r})]\n")
    return Site(tmp_path, run_pyinfra)


def verdict(finished: Finished) -> str:
    """Return in which column of pyinfra's results the one operation is: Success, Error or No Change."""
    [row] = re.findall(r"^\s+Objects\s+1\s+(\S+)\s+(\S+)\s+(\S+)\s*$", finished.stderr, re.MULTILINE)
    return ("Success", "Error", "No Change")[row.index("1")]


def apply(site: Site, source: str, options: str = "wait=False", *arguments: str, **settings: Any) -> Finished:
    return site.run(f'k8s.manifests({source}, name="Objects", {options})', *arguments, **settings)


def test_created_then_unchanged_then_only_the_changed_one(site: Site, client: Client, namespace: str) -> None:
    one, two = config_map("one", namespace, a="1"), config_map("two", namespace, a="1")
    made = apply(site, site.manifests(one, two))
    assert (made.returncode, verdict(made)) == (0, "Success"), made.stderr
    assert f"created     ConfigMap/{namespace}/one" in made.stderr
    again = apply(site, site.manifests(one, two))
    assert (again.returncode, verdict(again)) == (0, "No Change"), again.stderr
    assert "ConfigMap" not in again.stderr.replace("objects.yaml", "")
    two["data"]["a"] = "2"
    third = apply(site, site.manifests(one, two))
    assert (third.returncode, verdict(third)) == (0, "Success"), third.stderr
    assert f"configured  ConfigMap/{namespace}/two" in third.stderr
    assert f"ConfigMap/{namespace}/one" not in third.stderr
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/two")["data"] == {"a": "2"}


def test_dry_tells_the_field_and_changes_nothing(site: Site, client: Client, namespace: str) -> None:
    item = config_map("one", namespace, a="1")
    apply(site, site.manifests(item))
    item["data"]["a"] = "2"
    dry = apply(site, site.manifests(item), "wait=False", "--dry", "--json")
    assert json.loads(dry.stdout)["plan"][0]["hosts_with_change"] == ["@local"]
    assert '.data.a: "1" -> "2"' in dry.stderr
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/one")["data"] == {"a": "1"}
    put_back = apply(site, site.manifests(config_map("one", namespace, a="1")), "wait=False", "--dry", "--json")
    assert json.loads(put_back.stdout)["plan"][0]["hosts_with_change"] == []


def test_dry_of_a_namespace_and_what_is_in_it(site: Site, client: Client, namespace: str) -> None:
    inside = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"{namespace}-new"}}
    source = site.manifests(inside, config_map("one", f"{namespace}-new"))
    dry = apply(site, source, "wait=False", "--dry")
    assert dry.returncode == 0
    assert f"created     ConfigMap/{namespace}-new/one (namespace {namespace}-new is not there yet)" in dry.stderr
    assert verdict(apply(site, source)) == "Success"
    assert verdict(apply(site, source)) == "No Change"


def test_diff_is_yaml_of_the_declared_fields(site: Site, client: Client, namespace: str) -> None:
    item = config_map("one", namespace, a="1", text="first\nsecond\n")
    apply(site, site.manifests(item))
    patch(client, f"/api/v1/namespaces/{namespace}/configmaps/one", {"data": {"theirs": "x"}}, manager="other")
    item["data"]["text"] = "first\nthird\n"
    dry = apply(site, site.manifests(item), "wait=False", "--dry", "--diff")
    lines = [line.removeprefix("    [@local] ") for line in dry.stderr.splitlines()]
    assert f"configured  ConfigMap/{namespace}/one" in lines
    assert "-    second" in lines
    assert "+    third" in lines
    assert "     first" in lines
    assert not [line for line in lines if "theirs" in line]
    assert "\x1b" not in dry.stderr


def test_a_created_object_is_shown_whole_by_diff(site: Site, namespace: str) -> None:
    dry = apply(site, site.manifests(config_map("one", namespace, a="1")), "wait=False", "--dry", "--diff")
    assert "+  a: " in dry.stderr
    assert f"+  namespace: {namespace}" in dry.stderr


def test_secrets_are_masked_at_every_verbosity(site: Site, namespace: str) -> None:
    item = secret("one", namespace, password="hunter2-before")
    made = apply(site, site.manifests(item), "wait=False", "-vvv", "--diff")
    item["stringData"]["password"] = "hunter2-after"
    dry = apply(site, site.manifests(item), "wait=False", "-vvv", "--diff", "--dry")
    assert f"configured  Secret/{namespace}/one" in dry.stderr
    written = "".join(path.read_text() for path in (site.directory / "reports").iterdir())
    for said in (made.stdout, made.stderr, dry.stdout, dry.stderr, written):
        assert "hunter2" not in said
        assert "aHVudGVyMi" not in said
        assert "PRIVATE KEY" not in said
    assert "client-key-data" not in made.stderr + dry.stderr


def test_changes_are_kept_as_data(site: Site, namespace: str) -> None:
    good, bad = config_map("good", namespace, a="1"), config_map("bad", f"{namespace}-nowhere")
    failed = apply(site, site.manifests(good, bad))
    assert failed.returncode == 1
    [applied] = site.reports()
    assert (applied["stage"], applied["host"], applied["operation"]) == ("applied", "@local", ["Objects"])
    assert {change["object"]: change["made"] for change in applied["changes"]} == {
        f"ConfigMap/{namespace}/good": True,
        f"ConfigMap/{namespace}-nowhere/bad": False,
    }
    good["data"]["a"] = "2"
    apply(site, site.manifests(good), "wait=False", "--dry")
    planned = site.reports()[-1]
    assert planned["stage"] == "planned"
    [change] = planned["changes"]
    assert change["outcome"] == "configured"
    assert change["fields"] == [{"path": ".data.a", "live": "1", "declared": "2"}]
    assert len(site.reports()) == 2


def test_nothing_is_kept_where_nothing_changes_or_nobody_asks(
    site: Site, api_server: ApiServer, namespace: str
) -> None:
    source = site.manifests(config_map("one", namespace))
    apply(site, source)
    kept = len(site.reports())
    apply(site, source)
    assert len(site.reports()) == kept
    data = {"kubeconfig": str(api_server.directory / "kubeconfig")}
    (site.directory / "inventory.py").write_text(f"hosts = [('@local', {data!r})]\n")
    assert verdict(apply(site, site.manifests(config_map("one", namespace, a="1")))) == "Success"
    assert len(site.reports()) == kept


def test_one_failed_object_is_told_in_the_servers_words_and_the_next_run_goes_on(
    site: Site, client: Client, namespace: str
) -> None:
    good, bad = config_map("good", namespace), deployment("bad", namespace, imagePullPolice="Never")
    failed = apply(site, site.manifests(good, bad))
    assert failed.returncode == 1
    assert "imagePullPolice: field not declared in schema" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/good")
    mended = apply(site, site.manifests(good, deployment("bad", namespace)))
    assert verdict(mended) == "Success"
    assert f"ConfigMap/{namespace}/good" not in mended.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: ConfigMap\nmetadata: {name: a}\n", "document 1, line 1: apiVersion is missing"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n", "metadata.name is missing"),
        ("a: [1\n", "malformed YAML"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_place(site: Site, text: str, words: str) -> None:
    (site.directory / "objects.yaml").write_text(text)
    refused = apply(site, '"objects.yaml"')
    assert refused.returncode == 1
    assert "objects.yaml" in refused.stderr
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ('[{"kind": "ConfigMap"}]', "object 1: apiVersion is missing"),
        ('[{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}] * 2', "is declared twice"),
        (
            '[{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": {1}}}]',
            "is not what JSON can hold",
        ),
        ("[], prune=True", "prune needs an owner"),
        ("[], prune_all=True", "prune needs an owner"),
        ('[], take_over="helm"', "take_over is a list of field managers: ['helm']"),
    ],
)
def test_wrong_arguments_are_refused(site: Site, call: str, words: str) -> None:
    refused = apply(site, call)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_is_wrong_is_refused_before_anything_runs(site: Site, client: Client, namespace: str) -> None:
    good = f"k8s.manifests({site.manifests(config_map('one', namespace))}, wait=False)"
    refused = site.run(f"{good}\nk8s.manifests([], prune=True)", "--dry")
    assert refused.returncode == 1
    assert "prune needs an owner" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_immutable_field_is_changed_only_when_told(site: Site, client: Client, namespace: str) -> None:
    item = deployment("fixed", namespace)
    apply(site, site.manifests(item))
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/fixed"
    before = live(client, path)["metadata"]["uid"]
    item["spec"]["selector"]["matchLabels"] = {"app": "other"}
    item["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    source = site.manifests(item)
    refused = apply(site, source)
    assert refused.returncode == 1
    assert "field is immutable" in refused.stderr
    assert live(client, path)["metadata"]["uid"] == before
    dry = apply(site, source, "wait=False, recreate=True", "--dry")
    assert "deleted and made anew, because it cannot be changed" in dry.stderr
    assert "refused as things stand" not in dry.stderr
    assert live(client, path)["metadata"]["uid"] == before
    told = apply(site, source, "wait=False, recreate=True")
    assert verdict(told) == "Success", told.stderr
    assert live(client, path)["metadata"]["uid"] != before
    assert verdict(apply(site, source, "wait=False, recreate=True")) == "No Change"


def test_prune_takes_namespaces_only_when_told(site: Site, client: Client, namespace: str) -> None:
    extra = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"{namespace}-extra"}}
    owner = f'wait=False, owner="{namespace}"'
    kept, dropped = config_map("kept", namespace), config_map("dropped", namespace)
    apply(site, site.manifests(extra, kept, dropped), owner)
    source = site.manifests(kept)
    dry = apply(site, source, f"{owner}, prune=True", "--dry")
    assert f"deleted     ConfigMap/{namespace}/dropped" in dry.stderr
    assert f"Namespace/{namespace}-extra" not in dry.stderr
    assert verdict(apply(site, source, f"{owner}, prune=True")) == "Success"
    assert verdict(apply(site, source, f"{owner}, prune=True")) == "No Change"
    told = apply(site, source, f"{owner}, prune_all=True", "--dry")
    assert f"deleted     Namespace/{namespace}-extra" in told.stderr


@pytest.mark.parametrize("text", ["", "# gone\n---\n# all of it\n"])
def test_an_empty_file_prunes_only_when_told(site: Site, client: Client, namespace: str, text: str) -> None:
    directory = site.directory / "manifests"
    directory.mkdir()
    one, two = config_map("one", namespace, a="1"), config_map("two", namespace, a="1")
    for item in (one, two):
        (directory / f"{item['metadata']['name']}.yaml").write_text(yaml.safe_dump(item))
    options = f'owner="{namespace}", prune=True'
    assert verdict(apply(site, '"manifests"', options)) == "Success"

    (directory / "one.yaml").write_text(text)
    for source, gone in (
        ('"manifests"', f"ConfigMap/{namespace}/one"),
        ('"manifests/one.yaml"', f"ConfigMap/{namespace}/one, ConfigMap/{namespace}/two"),
    ):
        said = f"manifests/one.yaml: no object in there, and prune would delete {gone}. Nothing was touched"
        assert said in apply(site, source, options, "--dry").stderr
        refused = apply(site, source, options)
        assert refused.returncode == 1 and said in refused.stderr and "prune_empty=True" in refused.stderr
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/one")["data"] == {"a": "1"}
    assert verdict(apply(site, '"manifests"', f"{options}, prune_empty=True")) == "Success"
    assert f"deleted     ConfigMap/{namespace}/two" in apply(site, "[]", f"{options}, prune_empty=True", "--dry").stderr
    # An empty file from which nothing would go is no matter.
    assert verdict(apply(site, '"manifests"', options)) == "No Change"


def test_what_another_program_holds_is_named_and_taken_only_with_force(
    site: Site, client: Client, namespace: str
) -> None:
    item = config_map("shared", namespace, a="theirs")
    client.request(
        "PATCH",
        f"/api/v1/namespaces/{namespace}/configmaps/shared",
        query={"fieldManager": "argocd"},
        body=item,
        content_type="application/apply-patch+yaml",
    )
    item["data"]["a"] = "ours"
    source = site.manifests(item)
    refused = apply(site, source)
    assert refused.returncode == 1
    assert ".data.a is held by 'argocd'" in refused.stderr
    assert verdict(apply(site, source, "wait=False, force=True")) == "Success"
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/shared")["data"] == {"a": "ours"}


def test_a_manager_named_to_be_taken_over_loses_what_we_do_not_declare(
    site: Site, client: Client, namespace: str
) -> None:
    client.request(
        "PATCH",
        f"/api/v1/namespaces/{namespace}/configmaps/moved",
        query={"fieldManager": "helm"},
        body=config_map("moved", namespace, a="1", b="2"),
        content_type="application/apply-patch+yaml",
    )
    made = apply(site, site.manifests(config_map("moved", namespace, a="1")), 'wait=False, take_over=["helm"]')
    assert verdict(made) == "Success", made.stderr
    assert "taken over from helm" in made.stderr
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/moved")["data"] == {"a": "1"}


def test_absent_objects_are_deleted_once(site: Site, namespace: str) -> None:
    source = site.manifests(config_map("one", namespace))
    apply(site, source)
    assert f"deleted     ConfigMap/{namespace}/one" in apply(site, source, "present=False", "--dry").stderr
    assert verdict(apply(site, source, "present=False")) == "Success"
    assert verdict(apply(site, source, "present=False")) == "No Change"


def test_a_namespace_with_labels_keeps_those_of_others(site: Site, client: Client, namespace: str) -> None:
    patch(client, f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"theirs": "x"}}}, manager="other")
    step = f'k8s.namespace("{namespace}", labels={{"team": "site"}}, name="Objects")'
    assert verdict(site.run(step)) == "Success"
    assert verdict(site.run(step)) == "No Change"
    labels = live(client, f"/api/v1/namespaces/{namespace}")["metadata"]["labels"]
    assert labels["team"] == "site"
    assert labels["theirs"] == "x"


def ready(client: Client, path: str) -> None:
    """Be the controller that brings a Deployment's one replica up."""
    set_status(
        client,
        path,
        {
            "observedGeneration": live(client, path)["metadata"]["generation"],
            "replicas": 1,
            "updatedReplicas": 1,
            "readyReplicas": 1,
            "availableReplicas": 1,
        },
    )


def test_waits_until_ready_also_where_nothing_changed(site: Site, client: Client, namespace: str) -> None:
    source = site.manifests(deployment("web", namespace))
    late = apply(site, source, "timeout=2")
    assert late.returncode == 1
    assert f"Deployment/{namespace}/web: its controller has not seen it yet" in late.stderr
    assert apply(site, source, "timeout=1").returncode == 1
    ready(client, f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert verdict(apply(site, source, "timeout=2")) == "No Change"


def test_a_terminal_shows_what_is_waited_for(site: Site, client: Client, namespace: str) -> None:
    source = site.manifests(deployment("slow", namespace))
    site.write(f'k8s.manifests({source}, name="Objects", timeout=60)')
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/slow"
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 160))
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("PYINFRA_PROGRESS", None)
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "pyinfra"), "inventory.py", "deploy.py", "-y"],
        cwd=site.directory, env=environment, stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.set_inheritable(leader, False)
    os.close(follower)
    said = bytearray()

    def bring_up_when_seen() -> None:
        deadline = time.monotonic() + 50
        while b"0 of 1 ready" not in said and time.monotonic() < deadline:
            time.sleep(0.1)
        ready(client, path)

    controller = threading.Thread(target=bring_up_when_seen)
    controller.start()
    while select.select([leader], [], [], 55)[0]:
        try:
            said += os.read(leader, 4096)
        except OSError:
            break
    controller.join()
    assert process.wait(timeout=30) == 0, said.decode()
    shown = f"0 of 1 ready: Deployment/{namespace}/slow: its controller has not seen it yet"
    assert shown[:40].encode() in said, said.decode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kubeconfig": "nothing-here"}, "kubeconfig nothing-here cannot be read: No such file or directory"),
        ({"kubeconfig": 7}, "data kubeconfig must be the path of a file, not 7"),
        ({"kube_context": "other"}, "there is no context named 'other'"),
    ],
)
def test_a_kubeconfig_that_does_not_serve_is_named(
    site: Site, api_server: ApiServer, namespace: str, data: Item, words: str
) -> None:
    given = {"kubeconfig": str(api_server.directory / "kubeconfig"), **data}
    (site.directory / "inventory.py").write_text(f"hosts = [('@local', {given!r})]\n")
    failed = apply(site, site.manifests(config_map("one", namespace)))
    assert failed.returncode == 1
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr


def test_kubectls_own_places_serve_where_no_file_is_named(
    site: Site, api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    (site.directory / "inventory.py").write_text("hosts = ['@local']\n")
    source = site.manifests(config_map("one", namespace))
    named = apply(site, source, "wait=False", env={"KUBECONFIG": str(api_server.directory / "kubeconfig")})
    assert verdict(named) == "Success", named.stderr
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    (home / ".kube" / "config").write_text((api_server.directory / "kubeconfig").read_text())
    assert verdict(apply(site, source, "wait=False", env={"HOME": str(home), "KUBECONFIG": ""})) == "No Change"


def test_a_server_that_is_away_fails_the_host_in_words(
    site: Site, own_server: ApiServer, run_pyinfra: Callable[..., Finished]
) -> None:
    data = {"kubeconfig": str(own_server.directory / "kubeconfig")}
    (site.directory / "inventory.py").write_text(f"hosts = [('@local', {data!r})]\n")
    own_server.kill()
    failed = apply(site, site.manifests(config_map("one", "default")))
    assert failed.returncode == 1
    assert "does not answer: connection refused" in failed.stderr
    assert "Traceback" not in failed.stderr
