"""What a bisection asks its remote before it brings anything: lines of builds, the pack graph."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Generic, TypeVar

import msgspec

from hacktree.client.bisect.core.model import Candidate, Verdict
from hacktree.client.bisect.farm.costs import GraphReading, read_edges
from hacktree.client.bisect.farm.known import Known, read_judged_line, read_known
from hacktree.client.bisect.farm.lines import (
    Name,
    ReadLine,
    read_between,
    read_finer_line,
    read_line,
)
from hacktree.client.connect import open_source
from hacktree.client.heads import HeadReader, UnsignedHeads
from hacktree.client.remote import Remote
from hacktree.client.retry import real_patience
from hacktree.client.source import Source
from hacktree.client.target import fetch_commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.repository import Repository

_CONNECTIONS: Final = 4
T = TypeVar("T")


class Read(msgspec.Struct, Generic[T], frozen=True):
    """What was read, and the bytes that it took."""

    value: T
    received: int


def read_ends(
    repository: Repository, remote: Remote, branch: BranchName, old: Name, new: Name
) -> Read[ReadLine]:
    """The builds from `old` to `new`, as `lines.read_line`."""
    return _ask(
        remote,
        lambda source: read_line(
            repository, source, _heads(repository, remote, source), branch, old, new
        ),
    )


def read_judged(
    repository: Repository,
    remote: Remote,
    branch: BranchName,
    known: Known,
    suite: str,
    new: Verdict,
) -> Read[ReadLine]:
    """The builds between which a suite's verdict changed last, as `known.read_judged_line`."""
    return _ask(
        remote,
        lambda source: read_judged_line(
            repository, source, _heads(repository, remote, source), branch, known, suite, new
        ),
    )


def read_finer(
    repository: Repository, remote: Remote, low: Candidate, high: Candidate
) -> Read[ReadLine]:
    """The builds that two neighbours were promoted from, and those between, as
    `lines.read_finer_line`; asks nobody if they were not promoted."""
    if not low.promoted_from or not high.promoted_from:
        return Read(ReadLine(), 0)
    return _ask(remote, lambda source: read_finer_line(repository, source, low, high))


def read_again(
    repository: Repository, remote: Remote, branch: BranchName, oldest: str, newest: str
) -> Read[ReadLine]:
    """The builds between two commits that are known, as `lines.read_between`."""
    return _ask(remote, lambda source: read_between(repository, source, branch, oldest, newest))


def require_head(repository: Repository, remote: Remote, branch: BranchName) -> None:
    """Raise `PeerError` unless the remote serves the head of the branch: where it does not, that a
    build is missing says nothing of the build."""

    async def ask(source: Source) -> bytes:
        head = await _heads(repository, remote, source).read_head(branch)
        return await fetch_commit(source, head)

    _ask(remote, ask)


def read_graph(remote: Remote, wanted: Collection[ObjectId]) -> Read[GraphReading]:
    """The pack graph as far as `wanted` trees need it, as `costs.read_edges`."""
    return _ask(remote, lambda source: read_edges(source, wanted))


def read_verdicts(remote: Remote) -> Read[Known]:
    """What the farm's suites said of builds, as `known.read_known`: hints, never proof."""
    return _ask(remote, read_known)


def _ask(remote: Remote, read: Callable[[Source], Awaitable[T]]) -> Read[T]:
    async def ask() -> Read[T]:
        async with open_source(remote, real_patience(), _CONNECTIONS) as source:
            value = await read(source)
            return Read(value, source.traffic.bytes)

    return asyncio.run(ask())


def _heads(repository: Repository, remote: Remote, source: Source) -> HeadReader:
    if remote.trust == "unsigned":
        return UnsignedHeads(source)
    from hacktree.client.signed_heads import SignedHeads

    return SignedHeads(repository, remote, source)
