"""We test how a standing cluster's configuration is read."""

from __future__ import annotations

import json

from meshstrap.facts.kubeadm_config import Kubelet, parse_standing

MAPS = {
    "items": [
        {"metadata": {"name": "kubeadm-config"}, "data": {"ClusterConfiguration": "networking:\n  podSubnet: a\n"}},
        {"metadata": {"name": "kubelet-config"}, "data": {"kubelet": 'maxPods: 50\ncontainerRuntimeEndpoint: ""\n'}},
        {"metadata": {"name": "kube-proxy"}, "data": {"config.conf": "mode: iptables"}},
    ]
}


def test_the_clusters_documents_and_etcds_arguments_are_read() -> None:
    text = json.dumps(MAPS, indent=4)
    said = [
        "#maps",
        *text.splitlines(),
        "#declared",
        '{"kubelet": {}, "kube_proxy": {}}',
        "#etcd",
        "--a=b",
        "#certificate",
    ]
    found = parse_standing(said)
    assert found is not None
    assert found["cluster"] == {"networking": {"podSubnet": "a"}}
    assert found["kubelet"] == {"maxPods": 50}
    assert found["kube_proxy"] == {"mode": "iptables"}
    assert found["declared"] == {"kubelet": {}, "kube_proxy": {}}
    assert (found["etcd_arguments"], found["certificate_names"]) == (["--a=b"], [])


def test_an_api_server_that_does_not_answer_is_no_configuration() -> None:
    assert parse_standing(["#maps", "#declared", "#etcd"]) is None
    assert parse_standing([]) is None


def test_a_kubelets_file_keeps_its_tables_and_leaves_out_what_is_the_nodes() -> None:
    said = ["#unfinished yes", "#config", "|authentication:", "|  anonymous:", "|    enabled: false"]
    found = Kubelet().process([*said, "|containerRuntimeEndpoint: unix:///run/x.sock", "|resolvConf: /run/y"])
    assert found == {"config": {"authentication": {"anonymous": {"enabled": False}}}, "unfinished": True}
