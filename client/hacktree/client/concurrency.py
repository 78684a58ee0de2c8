"""Bounded concurrency: a queue emptied by a fixed number of workers."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def run_workers(queue: deque[T], work: Callable[[T], Awaitable[None]], workers: int) -> None:
    """Call `work` for everything in `queue`; the first failure stops the others and is raised."""

    async def worker() -> None:
        while queue:
            await work(queue.popleft())

    await run_together(*(worker() for _ in range(min(workers, len(queue)))))


async def run_together(*work: Coroutine[Any, Any, None]) -> None:
    """Run everything at once; the first failure stops the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single exception in a group: the one that made the others stop."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
