"""Make bare machines ready for Kubernetes: kernel settings, containerd, kubelet and kubeadm, all from the bundle."""

from pyinfra import host

from meshstrap.operations import containerd, kubeadm, kubeadm_config, site, system

site.lock(name="One operator at a time")
kubeadm_config.fixed(
    host.data.pod_cidr,
    host.data.service_cidr,
    host.data.kubelet_config,
    name="What a standing cluster cannot change",
)
system.kernel(name="Load kernel modules and set sysctls, now and after each boot")
containerd.programs(name="Install containerd and runc", bundle=host.data.bundle)
containerd.cni_plugins(name="Install the CNI plugins", bundle=host.data.bundle)
kubeadm.programs(name="Install kubelet, kubeadm and kubectl", bundle=host.data.bundle)
containerd.service(
    name="Configure and run containerd",
    bundle=host.data.bundle,
    kubernetes_version=host.data.kubernetes_version,
    config=host.data.containerd_config,
    kubelet_config=host.data.kubelet_config,
)
kubeadm.kubelet(name="Set up the kubelet's service", bundle=host.data.bundle)
