"""The Kubernetes API by verbs, usable alone: no pyinfra in it, and nothing of a scenario.

    connect     a client from a kubeconfig (kubeconfig reads an ordinary file), over any address; discovery finds kinds
    manifests   YAML to objects, with every mistake located
    plan        what an apply would change: live against the server's dry-run, field by field (compare); diff shows it
    apply       the plan made so, in stages; delete and prune take away
    wait        until objects are ready, or never will be
    query       read and select; logs, exec and proxy reach what runs in Pods

`plan` decides, `apply` acts; neither prints. Errors are `errors.KubeError`, fit for a person, and hold no secret.
"""
