"""Make one Kubernetes cluster of the nodes with kubeadm: control plane, workers, pod network; all of it Ready."""

from pyinfra import host

from meshstrap.operations import kubeadm, kubeadm_config, site

site.lock(name="One operator at a time")
kubeadm_config.fixed(
    host.data.pod_cidr,
    host.data.service_cidr,
    host.data.kubelet_config,
    name="What a standing cluster cannot change",
)
if "leader" in host.groups:
    kubeadm.init(
        name="Create the control plane",
        cluster_name=host.data.cluster_name,
        kubernetes_version=host.data.kubernetes_version,
        pod_cidr=host.data.pod_cidr,
        service_cidr=host.data.service_cidr,
        kubelet_config=host.data.kubelet_config,
        kube_proxy_config=host.data.kube_proxy_config,
        etcd_extra_args=host.data.etcd_extra_args,
        api_server_cert_sans=host.data.api_server_cert_sans,
        ignore_preflight_errors=host.data.kubeadm_ignore_preflight_errors,
    )
    kubeadm_config.control_plane(
        host.data.kubelet_config,
        host.data.kube_proxy_config,
        host.data.etcd_extra_args,
        host.data.api_server_cert_sans,
        name="Configure the control plane",
    )
if "workers" in host.groups:
    kubeadm.join(
        name="Join the workers",
        cluster_name=host.data.cluster_name,
        ignore_preflight_errors=host.data.kubeadm_ignore_preflight_errors,
    )
kubeadm_config.kubelet(host.data.kubelet_config, name="Configure the kubelets", _serial=True)
kubeadm.pod_network(
    name="Route the pods' networks between the nodes",
    pod_cidr=host.data.pod_cidr,
    cni_manifests=host.data.cni_manifests,
)
if "leader" in host.groups:
    kubeadm.cni(name="Apply the site's own CNI", manifests=host.data.cni_manifests)
    kubeadm.ready(name="Wait until all nodes, kube-proxy and CoreDNS are ready")
