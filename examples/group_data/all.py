"""What: the site. Every name here can also be given for one run: `--data canary_weight=20`."""

# The name that `reset.py --data confirm=<name>` asks for.
cluster_name = "meshstrap"

# Where the images and programs are: `uv run meshstrap bundle add ~/usb/*` fills it.
bundle = "images"

# The versions in that bundle. preflight says whether the two are supported together.
kubernetes_version = "1.34.10"
istio_version = "1.31.0"

# Networks of the cluster; neither may overlap with the nodes' own network, or with any other that they must reach.
pod_cidr = "10.244.0.0/16"
service_cidr = "10.96.0.0/16"
# Pod traffic takes a static route per node, for which all nodes must share one network segment. Where they do not, name
# the manifests of your own CNI here:
cni_manifests = []

# Merged over what meshstrap writes, in the form of each program's own configuration.
containerd_config = {}
kubelet_config = {}
kube_proxy_config = {}
etcd_extra_args = {}
# Further names and addresses under which the API server is reached.
api_server_cert_sans = []
# kubeadm's own checks that you accept to fail, by kubeadm's names.
kubeadm_ignore_preflight_errors = []

# Istio's profile (demo, default, minimal) and its Helm values; the gateway answers on this port of every node.
istio_profile = "demo"
ingress_node_port = 30191
istio_values = {}
# Namespaces that get sidecars (True) or lose them (False).
injection = {"default": True}

# Other names for images, in kustomize's form: {"name": "docker.io/fortio/fortio", "newName": ..., "newTag": ...}
images = []

# v2's share of the canary's requests, in percent.
canary_weight = 10
# Prove each scenario after it is applied.
prove = True
# One evidence file a run.
reports = "reports"
