"""We test that a webhook which nobody will answer is not tried again, and every other one is, until patience ends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshstrap.kube.connect import Client
from meshstrap.kube.credentials import Credentials
from meshstrap.kube.discovery import Discovery
from meshstrap.kube.errors import ApiError
from meshstrap.kube.pool import Pool

REFUSED = (
    'Internal error occurred: failed calling webhook "validation.istio.io": failed to call webhook: Post'
    ' "https://istiod.istio-system.svc:443/validate?timeout=10s": dial tcp 10.96.0.7:443: connect: connection refused'
)


class Refusing:
    """A pool whose server refuses every request, and counts them."""

    def __init__(self) -> None:
        self.asked = 0

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        yield self

    def exchange(self, *_: Any) -> Any:
        self.asked += 1
        return SimpleNamespace(status=500, data=json.dumps({"message": REFUSED}).encode(), retry_after="")


@pytest.mark.parametrize(("unanswered", "once"), [("istiod.istio-system.svc", True), ("other.istio-system.svc", False)])
def test_only_a_webhook_that_nobody_will_answer_is_not_tried_again(unanswered: str, once: bool) -> None:
    pool = Refusing()
    client = Client(
        cast(Pool, pool),
        credentials=Credentials({}, {"insecure-skip-tls-verify": True}),
        tls_server_name=None,
        address="https://192.0.2.1:6443",
        prefix="",
        patience=0.3,
        discovery=Discovery(),
    )
    client.unanswered = frozenset({unanswered})
    with pytest.raises(ApiError, match="connection refused"):
        client.request("PATCH", "/apis/x", body={})
    assert (pool.asked == 1) is once
