"""The traffic scenarios, a folder each: manifests.yaml, the claim and its proof."""
