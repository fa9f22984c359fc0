"""The Kubernetes API by verbs: connect, plan, apply, compare, wait, prune, query, exec, logs."""
