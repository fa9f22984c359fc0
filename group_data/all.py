"""What: the settings of the site. Each name can be given on the command line too: --data NAME=VALUE."""

# --- Kubernetes ------------------------------------------------------------------------------------------------------
# Its name; `deploys/reset.py --data confirm=<name>` asks for it.
cluster_name = "meshstrap"
# Directory that holds bundle.lock.yaml and store/: every image and program that goes onto the nodes.
bundle = "images"
kubernetes_version = "1.34.10"
pod_cidr = "10.244.0.0/16"
service_cidr = "10.96.0.0/16"
# Manifests of a CNI of your own. Empty: bridge and host-local with routes between the nodes, which then share one L2.
cni_manifests = []
# Whether deploys/images.py removes images that meshstrap brought and that nothing needs any more.
images_prune = False
# Whether deploys/images.py reads every blob on the nodes, and brings anew those that are altered: costs a read of all.
images_verify = False
# Merged over meshstrap's own settings, in the form of each program's own configuration file.
containerd_config = {}
kubelet_config = {}
kube_proxy_config = {}
etcd_extra_args = {}
# Further names and addresses in the API server's certificate.
api_server_cert_sans = []
kubeadm_ignore_preflight_errors = []
# Checks of preflight.py whose errors you know and accept, by the name in brackets, for example ["swap"].
preflight_accept = []

# --- Istio -----------------------------------------------------------------------------------------------------------
istio_version = "1.31.0"
istio_profile = "demo"
# deploys/upgrade.py moves everything to another one.
istio_revision = "default"
# The tag of Istio's images where it is not istio_version.
istio_tag = ""
# Merged over meshstrap's own values.
istio_values = {}
ingress_node_port = 30191
# Istio on a Kubernetes that it does not support.
allow_unsupported_versions = False
# For deploys/uninstall.py: "remove" takes Istio's CustomResourceDefinitions too, and every object of these kinds.
istio_crds = "keep"
# Namespaces whose Istio objects it may take though others made them.
istio_discard = []
# Namespace -> whether its pods get a sidecar.
injection = {"default": True}

# --- Scenarios -------------------------------------------------------------------------------------------------------
# Other names for images, in kustomize's form: {"name": ..., "newName": ..., "newTag": ...}.
images = []
# The share of appv2, in percent.
canary_weight = 10
# True raises it in steps to 100 %, proved and with requests going on, and comes back.
canary_ladder = False
# Only this one is proved by verify.py, or removed by clean.py; empty: all.
scenario = ""
# False applies without proving.
prove = True
# Take over fields that another manager of the cluster holds.
force = False
reports = "reports"
# How you call kubectl from here, in the commands that are printed to try by hand.
kubectl = "kubectl"

# --- ssh -------------------------------------------------------------------------------------------------------------
# So that AES-GCM is taken, which costs this machine a third less than paramiko's first choice; it is in OpenSSH since
# 6.2. Take this away for an sshd without it.
ssh_paramiko_connect_kwargs = {
    "disabled_algorithms": {
        "ciphers": ["aes128-ctr", "aes192-ctr", "aes256-ctr", "aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"]
    }
}

# --- Given on the command line only ----------------------------------------------------------------------------------
confirm = ""
# For deploys/remove.py: the node to take out, by its name in the cluster, and your word that it will not come back.
node = ""
node_is_dead = False
