"""Many requests at once, in threads (which under gevent are greenlets); one unexpected error stops the rest."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
    # Not a pool of futures: one each for thousands of items costs a tenth of what a request does.
    waiting = deque(items)
    count = len(waiting)
    done: queue.SimpleQueue[tuple[Item, Result] | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            while True:
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                done.put((item, function(item)))
        except BaseException as error:
            waiting.clear()
            done.put(error)

    workers = [threading.Thread(target=work) for _ in range(min(WORKERS, count))]
    for worker in workers:
        worker.start()
    try:
        for _ in range(count):
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        # Left early, by an error here, there or in the caller: what is under way ends first.
        waiting.clear()
        for worker in workers:
            worker.join()
