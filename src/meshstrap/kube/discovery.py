"""What kinds a cluster serves and where: asked for one group at a time, kept per cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from meshstrap.kube.errors import ApiError, UnknownKind
from meshstrap.kube.parallel import each

if TYPE_CHECKING:
    from meshstrap.kube.connect import Client

# All groups in one answer; servers that cannot do that answer with the plain list of groups.
# Source: Kubernetes enhancement 3352 (stable in 1.30, beta and on in 1.27).
_AGGREGATED = ",".join(
    [f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")]
    + ["application/json"]
)


@dataclass(frozen=True)
class Resource:
    """One kind as the API server serves it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: frozenset[str] = frozenset()

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the URL path of one object, or of all (of a namespace, of the cluster) without a name."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [root]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name is not None:
            # RBAC names hold colons, which are legal here; anything else that is not plain is quoted.
            parts.append(quote(name, safe=":"))
        return "/".join(parts)

    @property
    def group(self) -> str:
        """API group, empty for the core one."""
        return self.api_version.rpartition("/")[0]


class Discovery:
    """The kinds of one cluster, learnt as they are needed; shared by all clients of that cluster."""

    def __init__(self) -> None:
        self.version: str | None = None
        self._kinds: dict[str, dict[str, Resource]] = {}

    def resource(self, client: Client, api_version: str, kind: str) -> Resource:
        """Return a kind's resource; raises UnknownKind where the cluster does not serve it (asked just now)."""
        found = self._kinds.get(api_version, {}).get(kind) or self._learn(client, api_version).get(kind)
        if found is None:
            raise UnknownKind(
                f"the cluster serves no kind {kind} in {api_version}; is its CustomResourceDefinition installed?"
            )
        return found

    def learn(self, client: Client, api_versions: Iterable[str]) -> None:
        """Learn the kinds of several groups and the cluster's version at once, of what is not known yet."""
        jobs: list[Callable[[], object]] = [client.version] if self.version is None else []
        unknown = sorted({api_version for api_version in api_versions if api_version not in self._kinds})
        jobs += [partial(self._learn, client, api_version) for api_version in unknown]
        each(lambda job: job(), jobs)

    def everything(self, client: Client) -> list[Resource]:
        """Return every kind once, in its group's preferred version, asking the cluster anew."""
        kinds: dict[tuple[str, str], Resource] = {}
        for resources in self._all(client):
            for resource in resources.values():
                kinds.setdefault((resource.group, resource.kind), resource)
        return list(kinds.values())

    def versions(self, client: Client) -> dict[str, list[str]]:
        """Return the apiVersions in which each kind is served, of all groups, preferred ones first; asked for anew."""
        found: dict[str, list[str]] = {}
        for resource in (resource for resources in self._all(client) for resource in resources.values()):
            found.setdefault(resource.kind, []).append(resource.api_version)
        return found

    def _all(self, client: Client) -> list[dict[str, Resource]]:
        answers = each(lambda path: client.request("GET", path, accept=_AGGREGATED), ["/api", "/apis"])
        if all(answer["kind"] == "APIGroupDiscoveryList" for answer in answers):
            return self._aggregated(answers)
        return self._one_by_one(client, *answers)

    def _aggregated(self, answers: Iterable[Mapping[str, Any]]) -> list[dict[str, Resource]]:
        """Read what a server says of all groups at once, each group's preferred version first."""
        learnt = []
        for group in [group for answer in answers for group in answer["items"]]:
            for version in group["versions"]:
                # An aggregated API (metrics, say) whose own server is away: what it had the last time.
                if version.get("freshness") == "Stale":
                    continue
                name = group["metadata"].get("name")
                api_version = f"{name}/{version['version']}" if name else version["version"]
                self._kinds[api_version] = {
                    item["responseKind"]["kind"]: Resource(
                        api_version,
                        item["responseKind"]["kind"],
                        item["resource"],
                        item["scope"] == "Namespaced",
                        frozenset(item["verbs"]),
                    )
                    for item in version.get("resources") or ()
                    if item.get("responseKind")
                }
                learnt.append(self._kinds[api_version])
        return learnt

    def _one_by_one(
        self, client: Client, core: Mapping[str, Any], others: Mapping[str, Any]
    ) -> list[dict[str, Resource]]:
        """Ask for each group and version, as servers before Kubernetes 1.27 want it."""
        preferred = [*core["versions"], *(group["preferredVersion"]["groupVersion"] for group in others["groups"])]
        # A kind that only an older version of its group serves is still worth knowing.
        older = [
            version["groupVersion"]
            for group in others["groups"]
            for version in group["versions"]
            if version["groupVersion"] not in preferred
        ]

        def learn(api_version: str) -> dict[str, Resource]:
            try:
                return self._learn(client, api_version, patience=1.0)
            except ApiError as error:
                if error.status != 503:
                    raise
                # As above: its own server is away.
                return {}

        return each(learn, preferred + older)

    def _learn(self, client: Client, api_version: str, *, patience: float | None = None) -> dict[str, Resource]:
        """Ask for one group and version; one that the cluster does not know holds no kinds."""
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            answer = client.request("GET", path, patience=patience)
        except ApiError as error:
            if error.status != 404:
                raise
            self._kinds.pop(api_version, None)
            return {}
        kinds = {
            item["kind"]: Resource(
                api_version, item["kind"], item["name"], item["namespaced"], frozenset(item["verbs"])
            )
            for item in answer["resources"]
            if "/" not in item["name"]
        }
        self._kinds[api_version] = kinds
        return kinds
