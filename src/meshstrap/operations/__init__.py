"""pyinfra operations: what makes a node or a cluster as declared."""
