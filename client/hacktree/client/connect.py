"""From a remote's definition to something that objects can be read from."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from hacktree.client.local_source import LocalSource
from hacktree.client.network_process import NetworkProcess
from hacktree.client.pace import Pace
from hacktree.client.process_transport import open_process_transport
from hacktree.client.remote import Remote
from hacktree.client.retry import Patience, real_patience
from hacktree.client.source import Source
from hacktree.client.web_source import WebSource
from hacktree.common.repository.repository import open_repository


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
    from hacktree.client.http_transport import open_http_transport

    spend = None if pace is None else pace.spend
    async with open_http_transport(remote, patience, connections, spend) as transport:
        yield WebSource(remote, transport)


@asynccontextmanager
async def open_source_beside(
    remote: Remote, process: NetworkProcess | None
) -> AsyncIterator[Source]:
    """The remote as a source that `process` reads; None: it is on this machine."""
    if process is None:
        async with open_source(remote, real_patience(), 1) as source:
            yield source
        return
    async with open_process_transport(remote, process) as transport:
        yield WebSource(remote, transport)


def open_references(paths: Sequence[Path]) -> list[Source]:
    """Repositories on this machine that spare the remote work."""
    return [LocalSource(open_repository(path)) for path in paths]
