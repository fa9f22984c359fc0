"""Who: machines of your own. Copy this file and group_data/ beside it to the top of the checkout, and edit both.

    cp -r examples/* .
    uv run pyinfra inventory.py deploys/preflight.py

Each machine needs Debian or Ubuntu (or another Linux with systemd), ssh, and an account that is root or may use sudo;
no Python, no internet. Names must be the machines' hostnames.
"""

# How ssh gets in. `ssh-keyscan -H 10.0.0.11 10.0.0.12 >> known_hosts`, then compare the fingerprints at the machines'
# consoles (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`): from then on a changed key stops that host.
_access = {
    "ssh_user": "admin",
    "ssh_key": "~/.ssh/id_ed25519",
    "ssh_known_hosts_file": "known_hosts",
    "ssh_strict_host_key_checking": "yes",
    # Leave it out for root. Where sudo asks for a password, so does the run; unattended, give "_sudo_password".
    "_sudo": True,
}

# ssh_hostname is where ssh finds the machine; node_address is its IPv4 in the cluster, on the network that all nodes
# share. The two may be the same.
#
# The proofs and the URLs that they print use http://<node_address>:<ingress_node_port>. Where your machine does not
# reach a node there (NAT, a jump host, a forwarded port), give that node the URL by which you do reach its node port,
# whatever port that has, as node_port_url:
#
#     ("node-1", {**_access, ..., "node_port_url": "http://203.0.113.7:8080"}),
control_plane = [
    ("node-1", {**_access, "ssh_hostname": "10.0.0.11", "node_address": "10.0.0.11"}),
]
workers = [
    ("node-2", {**_access, "ssh_hostname": "10.0.0.12", "node_address": "10.0.0.12"}),
    ("node-3", {**_access, "ssh_hostname": "10.0.0.13", "node_address": "10.0.0.13"}),
]

# The control-plane node that cluster-wide steps run on. Keep this line.
leader = control_plane[:1]
