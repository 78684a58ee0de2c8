"""What a bisection asks its remote before it brings anything: the lines of builds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hacktree.client.bisect.lines import Name, read_finer_line, read_line
from hacktree.client.bisect.model import Candidate
from hacktree.client.connect import open_source, real_patience
from hacktree.client.heads import HeadReader, UnsignedHeads
from hacktree.client.remote import Remote
from hacktree.client.source import Source
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.repository import Repository

_CONNECTIONS = 4
T = TypeVar("T")


def read_ends(
    repository: Repository, remote: Remote, branch: BranchName, old: Name, new: Name
) -> list[Candidate]:
    """The builds from `old` to `new`, as `lines.read_line`."""

    async def read(source: Source) -> list[Candidate]:
        heads = _heads(repository, remote, source)
        return await read_line(repository, source, heads, branch, old, new)

    return _ask(remote, read)


def read_finer(
    repository: Repository, remote: Remote, low: Candidate, high: Candidate
) -> list[Candidate]:
    """The builds that two neighbours were promoted from, and those between, as
    `lines.read_finer_line`; asks nobody if they were not promoted."""
    if not low.promoted_from or not high.promoted_from:
        return []

    async def read(source: Source) -> list[Candidate]:
        return await read_finer_line(repository, source, low, high)

    return _ask(remote, read)


def _ask(remote: Remote, read: Callable[[Source], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with open_source(remote, real_patience(), _CONNECTIONS) as source:
            return await read(source)

    return asyncio.run(ask())


def _heads(repository: Repository, remote: Remote, source: Source) -> HeadReader:
    if remote.trust == "unsigned":
        return UnsignedHeads(source)
    from hacktree.client.signed_heads import SignedHeads

    return SignedHeads(repository, remote, source)
