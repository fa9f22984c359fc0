"""Many requests at once, in threads (which under gevent are greenlets); one unexpected error stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Requests in flight for one bulk read, dry-run or apply; more only queue at the API server.
WORKERS = 8


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call a function on all items and return the results in the items' order.

    The first exception is raised once what is under way has ended; what has not begun never is.
    """
    listed = list(items)
    if len(listed) == 1:
        return [function(listed[0])]
    results = dict(finished(lambda index: function(listed[index]), range(len(listed))))
    return [results[index] for index in range(len(listed))]


def finished(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Call a function on all items and yield each with its result as it is done, in the caller's thread."""
    with ThreadPoolExecutor(WORKERS) as workers:
        running: dict[Future[Result], Item] = {workers.submit(function, item): item for item in items}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
