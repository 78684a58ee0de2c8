"""From a remote's definition to something that objects can be read from."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from hacktree.client.local_source import LocalSource
from hacktree.client.pace import Pace
from hacktree.client.remote import Remote
from hacktree.client.retry import Patience, RetryPolicy
from hacktree.client.source import Source
from hacktree.common.repository.repository import open_repository


def real_patience() -> Patience:
    """Patience by the clock of this machine."""
    return Patience(RetryPolicy(), time.monotonic, asyncio.sleep, random.random)


@asynccontextmanager
async def open_source(
    remote: Remote, patience: Patience, connections: int, pace: Pace | None = None
) -> AsyncIterator[Source]:
    """The remote as a source; aiohttp is imported only for one on the network.

    `pace`: how fast the network is read at most, None for no limit.
    """
    if remote.local_path is not None:
        yield LocalSource(open_repository(remote.local_path))
        return
    from hacktree.client.http_source import open_http_source

    async with open_http_source(remote, patience, connections, pace) as source:
        yield source


def open_references(paths: Sequence[Path]) -> list[Source]:
    """Repositories on this machine that spare the remote work."""
    return [LocalSource(open_repository(path)) for path in paths]
