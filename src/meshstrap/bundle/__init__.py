"""Archives and binaries that go onto the nodes: read, lock, verify, plan, stream."""
