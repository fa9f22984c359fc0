"""pyinfra facts: what a node or a cluster says."""
