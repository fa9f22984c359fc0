"""What holds for the lab's nodes alone: containers on one machine, without some of a machine's rights."""

import os as _os
from pathlib import Path as _Path

from meshstrap.lab.directory import locate as _locate

# The lab's own bundle, built by `meshstrap lab build`.
bundle = str(_locate(_os.environ, _Path(__file__).parents[1]).bundle)

# A container's root cannot lower an oom score (no CAP_SYS_RESOURCE), nor load AppArmor profiles.
containerd_config = {
    "plugins": {
        "io.containerd.cri.v1.runtime": {
            "restrict_oom_score_adj": True,
            "tolerate_missing_hugetlb_controller": True,
            "disable_apparmor": True,
            # A node has few devices itself: a privileged pod (kube-proxy) cannot be given all of them.
            "containerd": {"runtimes": {"runc": {"privileged_without_host_devices": True}}},
        }
    }
}

kubelet_config = {
    # The node makes this cgroup at boot, apart from systemd's.
    "cgroupDriver": "cgroupfs",
    "cgroupRoot": "/kubelet",
    "failSwapOn": False,
    "oomScoreAdj": 0,
    "maxOpenFiles": 20000,
    # All nodes see the one disk of this machine: its filling is not the node's to act upon.
    "imageGCHighThresholdPercent": 100,
    "evictionHard": {
        "imagefs.available": "0%",
        "imagefs.inodesFree": "0%",
        "memory.available": "0%",
        "nodefs.available": "0%",
        "nodefs.inodesFree": "0%",
    },
}
kube_proxy_config = {"oomScoreAdj": 0, "conntrack": {"maxPerCore": 0}}
kubeadm_ignore_preflight_errors = ["SystemVerification", "Swap"]
# A lab may lose its data with its power; it shall be quick.
etcd_extra_args = {"unsafe-no-fsync": "true"}
# The API server is published there for `meshstrap lab kubeconfig`.
api_server_cert_sans = ["127.0.0.1"]

# The lab's proxy is Envoy as its own project builds it, without Istio's filters: telemetry and peer metadata would be
# rejected, and so would protocol sniffing. The settings belong to the lab, not to Istio's images.
istio_values = {
    "telemetry": {"enabled": False},
    "pilot": {"env": {"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false"}},
}

# On the control plane; this machine need not have one.
kubectl = "uv run meshstrap lab kubectl"
