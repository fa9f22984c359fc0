"""Rules of Jobs: what a second run of the same manifests does with them."""

from __future__ import annotations

from collections.abc import Iterator

from meshstrap.mesh.lint.finding import Declared, Finding, at, whole


def job_ttl(declared: Declared) -> Iterator[Finding]:
    """Find a Job that is deleted when it has finished, so that applying the manifests again runs it again."""
    for index, job in declared.of("Job", "batch"):
        seconds = whole(at(job, "spec", "ttlSecondsAfterFinished"))
        if seconds is None:
            continue
        yield declared.finding(
            "job-ttl",
            index,
            ("spec", "ttlSecondsAfterFinished"),
            f"the Job is deleted {seconds} s after it has finished, so each later run of the deploy makes it again and"
            " runs it again, and the second run is never without a change",
            "no ttlSecondsAfterFinished: a Job that stays is left alone; or accept it, where it may run each time",
            "kubernetes.io, Automatic Cleanup for Finished Jobs; seen: created by every run",
        )
