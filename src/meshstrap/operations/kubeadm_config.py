"""Bring edited data onto a standing cluster of ours: kubelets, kube-proxy, etcd, the API server's certificate."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import gevent
import yaml
from pyinfra.api.command import FunctionCommand, PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from meshstrap import transport
from meshstrap.facts.kubeadm import DIRECTORY, RUNNING, Member, phase
from meshstrap.facts.kubeadm_config import (
    DECLARED,
    KUBELET_BEFORE,
    KUBELET_FILE,
    DeclaredState,
    Kubelet,
    Standing,
    StandingState,
)
from meshstrap.facts.system import PATH
from meshstrap.operations import kubeadm, system
from meshstrap.operations.failure import executing, fail, failure
from meshstrap.operations.reach import alone, fact

_ANSWER_SECONDS = 90.0
_APPLY_SECONDS = 900.0
_LAST_LINE = "# end of configuration"
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|ns))+|0")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

# Each part leaves the cluster as it was where it fails. The ConfigMap kubeadm-config is written last: as long as it
# has the old data, the next run does the whole anew.
_APPLY = f"""
{PATH}
umask 077
config=$(mktemp /run/meshstrap.config.XXXXXX) || exit 1
new= old={DIRECTORY}/meshstrap.etcd.yaml manifest={DIRECTORY}/manifests/etcd.yaml pki={DIRECTORY}/pki
k="kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=10s -n kube-system"
trap 'rm -rf "$config" "$config".* ${{new:+"$new"}}; [ -e "$old" ] && mv -f "$old" "$manifest"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$config"
[ "$(tail -n 1 "$config")" = "{_LAST_LINE}" ] || {{ echo "the configuration arrived cut off"; exit 1; }}
exec 9>>{RUNNING}
flock -w 600 9 || {{ echo "another kubeadm has been running on this node for 10 minutes"; exit 1; }}
node=$1 names=$2; shift 2
within() {{ end=$(($(date +%s) + $1)); shift; until "$@"; do [ "$(date +%s)" -lt $end ] || return 1; sleep 1; done; }}
answers() {{ $k get --raw /readyz >/dev/null 2>&1; }}
phase() {{ kubeadm init phase "$@" >"$config.log" 2>&1 </dev/null || {{ tail -n 20 "$config.log"; exit 1; }}; }}
mirror() {{ $k get pod "etcd-$node" -o "jsonpath={{.metadata.annotations.kubernetes\\.io/config\\.mirror}}" 2>&1; }}
renewed() {{ now=$(mirror) && [ "$now" != "$before" ] && answers; }}
serves() {{ for each in $names; do $k --tls-server-name="$each" get --raw /readyz >/dev/null 2>&1 || return 1; done; }}
for part; do
    case $part in
        etcd)
            before=$(mirror) || {{ echo "etcd's pod cannot be read: $before"; exit 1; }}
            cp -p "$manifest" "$old" || exit 1
            phase etcd local --config "$config"
            if ! cmp -s "$manifest" "$old" && ! {{ within 90 renewed &&
                $k wait --for=condition=Ready --timeout=60s "pod/etcd-$node" >/dev/null 2>&1; }}; then
                echo "etcd does not come up with these arguments; its manifest is put back. It said:"
                cat "$(ls -t /var/log/pods/kube-system_etcd-*/etcd/*.log | head -n 1)" 2>/dev/null | head -n 2
                mv -f "$old" "$manifest"
                within 180 answers
                exit 1
            fi
            rm -f "$old" ;;
        certificate)
            # The API server reads a changed pair by itself, and serves the old one until it is whole.
            new=$(mktemp -d {DIRECTORY}/pki.XXXXXX) && cp -p "$pki/ca.crt" "$pki/ca.key" "$new/" || exit 1
            sed "s|^certificatesDir:.*|certificatesDir: $new|" "$config" >"$config.certificate"
            phase certs apiserver --config "$config.certificate"
            mv -f "$new/apiserver.key" "$pki/" && mv -f "$new/apiserver.crt" "$pki/" || exit 1
            rm -rf "$new"
            within 150 serves || {{ echo "the API server does not serve its new certificate"; exit 1; }} ;;
        kubelet) phase upload-config kubelet --config "$config" ;;
        kube-proxy)
            $k get configmap kube-proxy -o json >"$config.proxy" || exit 1
            phase addon kube-proxy --config "$config"
            $k rollout restart daemonset/kube-proxy >/dev/null || exit 1
            if ! $k rollout status daemonset/kube-proxy --timeout=180s --request-timeout=0 >"$config.log" 2>&1; then
                echo "kube-proxy does not come up with this configuration; the old one is put back. It said:"
                cat /var/log/pods/kube-system_kube-proxy-*/kube-proxy/*.log 2>/dev/null | tail -n 3
                sed -i '/"resourceVersion":/d' "$config.proxy"
                $k replace -f "$config.proxy" >/dev/null && $k rollout restart daemonset/kube-proxy >/dev/null
                exit 1
            fi ;;
        cluster) phase upload-config kubeadm --config "$config" ;;
    esac
done
exit 0
"""
# A kubelet that dies at once is started again and again: the same process has to live for a while.
_KUBELET = f"""
{PATH}
exec 9>>{RUNNING}
flock -w 600 9 || {{ echo "another kubeadm has been running on this node for 10 minutes"; exit 1; }}
[ -e {KUBELET_BEFORE} ] || cp -p {KUBELET_FILE} {KUBELET_BEFORE} || exit 1
back() {{ mv -f {KUBELET_BEFORE} {KUBELET_FILE}; systemctl restart kubelet; exit 1; }}
said=$(kubeadm upgrade node phase kubelet-config 2>&1) || {{ echo "$said" | tail -n 5; back; }}
rm -rf {DIRECTORY}/tmp/kubeadm-kubelet-config*
systemctl restart kubelet
lives() {{ systemctl is-active --quiet kubelet && systemctl show kubelet -p MainPID --value; }}
n=0 same=0 pid=
while [ $same -lt 6 ]; do
    n=$((n + 1)); now=$(lives)
    if [ -n "$now" ] && [ "$now" = "$pid" ]; then same=$((same + 1)); else same=0; fi
    pid=$now
    if [ $n -gt 30 ]; then
        echo "the kubelet does not run with this configuration; the old one is put back. It said:"
        journalctl -u kubelet -n 30 -o cat --no-pager | grep -i 'err\\|fail' | tail -n 3
        back
    fi
    sleep 1
done
rm -f {KUBELET_BEFORE}
"""


@operation()
@alone
def fixed(pod_cidr: str, service_cidr: str, kubelet_config: Mapping[str, Any]) -> Generator[PyinfraCommand, None, None]:
    """Refuse data that a standing cluster of ours cannot be changed to. Changes nothing.

    + pod_cidr: the pods' addresses
    + service_cidr: the Services' addresses
    + kubelet_config: its cgroupDriver

    **Example:**

    .. code:: python

        kubeadm_config.fixed("10.244.0.0/16", "10.96.0.0/16", {}, name="What a cluster cannot change")
    """
    leader = kubeadm.leader_of(host)
    if not _answers(leader) or phase(fact(leader, Member)) != "ours":
        host.noop("there is no cluster of ours yet")
        return
    standing = fact(leader, Standing)
    problem = fixed_problem(standing, pod_cidr, service_cidr, kubelet_config) if standing else None
    if problem:
        yield from system.refuse(problem)
        return
    host.noop("what a cluster cannot change is as it was")


@operation()
@alone
def control_plane(
    kubelet_config: Mapping[str, Any],
    kube_proxy_config: Mapping[str, Any],
    etcd_extra_args: Mapping[str, str],
    api_server_cert_sans: Sequence[str],
) -> Generator[PyinfraCommand, None, None]:
    """Change the configuration of a standing cluster of ours to what the data say, one part after the other.

    etcd and kube-proxy restart, pods go on; the API server is away for some seconds where etcd restarts.

    + kubelet_config: merged over ours, a KubeletConfiguration; `kubelet` brings it to each node
    + kube_proxy_config: merged over ours, a KubeProxyConfiguration
    + etcd_extra_args: further arguments of etcd
    + api_server_cert_sans: further names and addresses in the API server's certificate

    **Example:**

    .. code:: python

        kubeadm_config.control_plane({"maxPods": 50}, {}, {}, [], name="Configure the control plane")
    """
    member = fact(host, Member)
    address = kubeadm.node_address(host)
    if phase(member) != "ours" or address is None:
        host.noop("configured where the control plane is made, or left alone where others made it")
        return
    standing = _answered(host) if executing() else fact(host, Standing)
    if standing is None:
        if executing():
            yield failure(f"{host.name}: the API server does not answer: look at `journalctl -u kubelet` there")
        else:
            host.noop("the API server does not answer: looked at when the run executes")
        return
    kubelet, proxy = kubeadm.component_configurations(kubelet_config, kube_proxy_config)
    declared: DeclaredState = {"kubelet": kubelet, "kube_proxy": proxy}
    parts = changed_parts(standing, declared, etcd_extra_args, api_server_cert_sans)
    if parts:
        host.log(f"to be changed: {', '.join(parts)}")
        documents = wanted_documents(standing, declared, etcd_extra_args, api_server_cert_sans)
        documents.insert(0, kubeadm.init_document(member["hostname"], address))
        yield FunctionCommand(_apply, (member["hostname"], documents, parts, tuple(api_server_cert_sans)), {})
    record = list(kubeadm.write_changes({DECLARED: json.dumps(declared, sort_keys=True) + "\n"}))
    yield from record
    if not (parts or record):
        host.noop("the control plane is configured as declared")


@operation()
@alone
def kubelet(kubelet_config: Mapping[str, Any]) -> Generator[PyinfraCommand, None, None]:
    """Bring the cluster's KubeletConfiguration to this node and restart its kubelet. Pods go on.

    Where the kubelet does not run with it, the old one is put back, and the host fails.

    + kubelet_config: as given to `control_plane`

    **Example:**

    .. code:: python

        kubeadm_config.kubelet({"maxPods": 50}, name="Configure the kubelets", _serial=True)
    """
    if phase(fact(host, Member)) != "ours":
        host.noop("configured where it joins, or left alone where others made the cluster")
        return
    leader = kubeadm.leader_of(host)
    standing = fact(leader, Standing) if _answers(leader) else None
    if standing is None:
        host.noop("the cluster does not say how kubelets are configured")
        return
    declared = kubeadm.component_configurations(kubelet_config, {})[0]
    now = fact(host, Kubelet)
    upcoming = changed_component(standing["kubelet"], _before(standing, "kubelet"), declared)
    if not (upcoming or now["unfinished"] or now["config"] != standing["kubelet"]):
        host.noop("the kubelet is configured as the cluster says")
        return
    yield FunctionCommand(_configure_kubelet, (), {})


def fixed_problem(
    standing: StandingState, pod_cidr: str, service_cidr: str, kubelet_config: Mapping[str, Any]
) -> str | None:
    """Say what of the data a standing cluster cannot be changed to; None: nothing.

    Args:
        standing: how it is configured.
        pod_cidr: the pods' addresses, from the data.
        service_cidr: the Services' addresses, from the data.
        kubelet_config: from the data.

    """
    networking = standing["cluster"].get("networking", {})
    now = {
        "pod_cidr": (networking.get("podSubnet"), pod_cidr),
        "service_cidr": (networking.get("serviceSubnet"), service_cidr),
        "kubelet_config: cgroupDriver": (
            standing["kubelet"].get("cgroupDriver"),
            kubelet_config.get("cgroupDriver", "systemd"),
        ),
    }
    wrong = [f"{key} is {there} there, and the data say {said}" for key, (there, said) in now.items() if there != said]
    if not wrong:
        return None
    return (
        f"a standing cluster cannot be changed so: {'; '.join(wrong)}. Set it back, or make the cluster anew"
        " (deploys/reset.py, then deploys/site.py)"
    )


def changed_parts(
    standing: StandingState, declared: DeclaredState, etcd_extra_args: Mapping[str, str], names: Sequence[str]
) -> list[str]:
    """Name the parts of a cluster's configuration that are not as declared, in the order in which they are changed.

    Args:
        standing: how it is configured.
        declared: the configurations of kubelets and kube-proxy, ours with the data's merged over them.
        etcd_extra_args: from the data.
        names: the further names in the API server's certificate.

    """
    cluster = standing["cluster"]
    arguments = [f"--{key}={value}" for key, value in etcd_extra_args.items()]
    kept = (cluster.get("etcd", {}).get("local") or {}).get("extraArgs") or []
    kept_names = (cluster.get("apiServer") or {}).get("certSANs") or []
    etcd = sorted(f"--{each['name']}={each['value']}" for each in kept) != sorted(arguments)
    certificate = sorted(kept_names) != sorted(names)
    parts = []
    if etcd or not set(arguments) <= set(standing["etcd_arguments"]):
        parts.append("etcd")
    if certificate or not set(names) <= set(standing["certificate_names"]):
        parts.append("certificate")
    if changed_component(standing["kubelet"], _before(standing, "kubelet"), declared["kubelet"]):
        parts.append("kubelet")
    if changed_component(standing["kube_proxy"], _before(standing, "kube_proxy"), declared["kube_proxy"]):
        parts.append("kube-proxy")
    if etcd or certificate:
        parts.append("cluster")
    return parts


def changed_component(stands: object, before: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Tell whether a component's configuration is to be changed.

    Args:
        stands: what the cluster has.
        before: what was declared when it was applied last; None where nothing tells.
        wanted: what is declared.

    """
    return not holds(stands, wanted) if before is None else before != wanted


def holds(stands: object, wanted: object) -> bool:
    """Tell whether a configuration has all that is wanted, as Kubernetes writes it: 1m is 1m0s, empty is left out."""
    if isinstance(wanted, Mapping):
        there = stands if isinstance(stands, Mapping) else {}
        return all(holds(there.get(key), value) for key, value in wanted.items())
    if not stands and not wanted:
        return True
    if isinstance(stands, str) and isinstance(wanted, str):
        return stands == wanted or (_seconds(stands) is not None and _seconds(stands) == _seconds(wanted))
    return stands == wanted


def edited(stands: Mapping[str, Any], before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Change a configuration to what is wanted: what was declared before and is no longer goes, the rest stays.

    Args:
        stands: what the cluster has.
        before: what was declared when it was applied last.
        wanted: what is declared.

    """
    result = dict(stands)
    for key, value in before.items():
        if key not in wanted:
            inner = result.get(key)
            if isinstance(value, Mapping) and isinstance(inner, Mapping):
                result[key] = edited(inner, value, {})
            else:
                result.pop(key, None)
    for key, value in wanted.items():
        inner, earlier = result.get(key), before.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            result[key] = edited(inner, earlier if isinstance(earlier, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def wanted_documents(
    standing: StandingState, declared: DeclaredState, etcd_extra_args: Mapping[str, str], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Make kubeadm's documents of a standing cluster's and the data; what others set in them stays.

    Args:
        standing: how it is configured.
        declared: the configurations of kubelets and kube-proxy.
        etcd_extra_args: from the data.
        names: the further names in the API server's certificate.

    """
    cluster = dict(standing["cluster"])
    local = {**((cluster.get("etcd") or {}).get("local") or {})}
    local["extraArgs"] = [{"name": key, "value": str(value)} for key, value in etcd_extra_args.items()]
    cluster["etcd"] = {"local": local}
    cluster["apiServer"] = {**(cluster.get("apiServer") or {}), "certSANs": list(names)}
    cluster.setdefault("certificatesDir", f"{DIRECTORY}/pki")
    return [
        cluster,
        edited(standing["kubelet"], _before(standing, "kubelet") or {}, declared["kubelet"]),
        edited(standing["kube_proxy"], _before(standing, "kube_proxy") or {}, declared["kube_proxy"]),
    ]


def _before(standing: StandingState, part: str) -> dict[str, Any] | None:
    declared: Mapping[str, Any] | None = standing["declared"]
    return declared[part] if declared else None


def _seconds(text: str) -> float | None:
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|ns)", text))


def _answers(leader: Host) -> bool:
    if leader in leader.state.failed_hosts:
        return False
    if not leader.connected:
        try:
            leader.connect(reason="leads the site", show_errors=False, raise_exceptions=True)
        except ConnectError:
            return False
    return True


def _answered(leader: Host) -> StandingState | None:
    end = time.monotonic() + _ANSWER_SECONDS
    while (standing := fact(leader, Standing)) is None and time.monotonic() < end:
        gevent.sleep(1)
    return standing


def _apply(
    state: State, host: Host, node: str, documents: list[dict[str, Any]], parts: Sequence[str], names: Sequence[str]
) -> bool:
    text = f"{yaml.safe_dump_all(documents, sort_keys=False)}{_LAST_LINE}\n"
    words = [QuoteString(each) for each in (node, " ".join(names), *parts)]
    return _run(host, StringCommand("sh", "-c", QuoteString(_APPLY), "apply", *words), text.encode())


def _configure_kubelet(state: State, host: Host) -> bool:
    return _run(host, StringCommand("sh", "-c", QuoteString(_KUBELET)), None)


def _run(host: Host, command: StringCommand, text: bytes | None) -> bool:
    try:
        result = transport.execute(host, command, stdin=text, timeout=_APPLY_SECONDS)
    except transport.TransportError as error:
        return fail(host, str(error))
    if not result.ok:
        said = kubeadm.without_tokens(result.stdout + result.stderr).strip()
        return fail(host, f"{host.name}: {said}\nPut the data right and run this again.")
    return True
