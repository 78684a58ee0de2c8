"""Bringing a build to test: a pull of an exact commit, which moves no ref.

A pin keeps the commit. It is durable before the first byte is asked for, so nothing that was
brought is ever without a name that keeps it, whenever the process dies: a pin whose commit is not
here yet keeps nothing and harms nobody. docs/bisect.md, "Bringing a build".
"""

import asyncio
import re
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hacktree.client.connect import open_source
from hacktree.client.memory import Memory
from hacktree.client.pull import (
    PullReport,
    PullRequest,
    PullResult,
    decoders,
    pull_target,
    unchanged,
)
from hacktree.client.remote import Remote
from hacktree.client.retry import real_patience
from hacktree.client.source import NotServedError, Source, Traffic, WrongBytesError
from hacktree.client.target import IdPrefix, Target, Wanted, WrongBranchError, fetch_commit
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.prefer import Prefer
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.decoding import DecoderPool
from hacktree.common.repository.durable import (
    make_directories,
    sync_directory,
    write_durably,
)
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.repository import Repository

_PIN: Final = re.compile(r"bisect-[0-9a-f]{16}")


class BuildGoneError(NotServedError):
    """The remote serves the build no longer."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Which build to bring; `commit` and `branch` are known from verified history.

    `prefer`: what packs are to spare; None: objects are fetched one by one. `data`: the commit, if
    history had it. `edges`: of the pack graph, if it was read already (`costs.read_edges`).
    `memory`: what earlier pulls of this process know.
    """

    branch: BranchName
    commit: ObjectId
    connections: int = 12
    prefer: Prefer | None = Prefer.AUTO
    data: bytes = field(default=b"", repr=False)
    edges: Sequence[Edge] = field(default=(), repr=False)
    memory: Memory = field(default_factory=Memory, repr=False)


def bring_build(
    repository: Repository,
    remote: Remote,
    request: BuildRequest,
    report: PullReport | None = None,
) -> tuple[PullResult, Traffic]:
    """Bring the build and everything it reaches here, and keep it by a pin.

    Needs no network and no time if its commit is here already: that has everything it reaches
    (docs/adr/0002). Interrupted anywhere, the next call continues. Raises `BuildGoneError`, other
    `PeerError`s, `SpaceError`, `CorruptError` and `OSError`.
    """
    if _keep_if_here(repository, request.commit):
        return unchanged(_read_here(repository, request)), Traffic()
    with decoders(repository) as pool:
        # Forked now, before there are threads; else each starts at its first job.
        if request.prefer is not None and threading.active_count() == 1:
            pool.fork()
        return asyncio.run(_bring(repository, remote, request, report or PullReport(), pool))


async def _bring(
    repository: Repository,
    remote: Remote,
    request: BuildRequest,
    report: PullReport,
    pool: DecoderPool,
) -> tuple[PullResult, Traffic]:
    async with open_source(remote, real_patience(), request.connections) as source:
        result = await bring_from(repository, remote.name, request, source, report, pool)
        return result, source.traffic


async def bring_from(
    repository: Repository,
    remote: str,
    request: BuildRequest,
    source: Source,
    report: PullReport,
    pool: DecoderPool,
) -> PullResult:
    """As `bring_build`, from a source that is open, with decoders that are there."""
    if _keep_if_here(repository, request.commit):
        return unchanged(_read_here(repository, request))
    target = await _read_target(request, source)
    wanted = Wanted(remote, request.branch, IdPrefix(request.commit.hex()))
    pull = PullRequest(
        remote, wanted, request.connections, request.prefer, request.edges, request.memory
    )
    try:
        return await pull_target(repository, pull, target, [source], report, pool, ref=None)
    except NotServedError:
        if request.data:
            await _fetch_commit(request, source)  # If that is gone as well, all of it is.
        raise


def _keep_if_here(repository: Repository, commit_id: ObjectId) -> bool:
    """Pin the build; whether it is here.

    Looked at under the lock: a prune that had not seen the pin yet has ended then.
    """
    pin_build(repository, commit_id)
    with repository.lock(LockKind.SHARED):
        return repository.has_meta(commit_id)


def _read_here(repository: Repository, request: BuildRequest) -> Target:
    data = repository.read_meta(request.commit, MAX_COMMIT_SIZE)
    return _target(request, data, f"{repository.objects}/{meta_name(request.commit)}")


async def _read_target(request: BuildRequest, source: Source) -> Target:
    """The commit, checked: what history had, or in one request."""
    data = request.data
    if hash_bytes(data) != request.commit:
        data = await _fetch_commit(request, source)
    return _target(request, data, source.meta_location(request.commit))


async def _fetch_commit(request: BuildRequest, source: Source) -> bytes:
    try:
        return await fetch_commit(source, request.commit)
    except NotServedError as error:
        raise BuildGoneError(
            source.meta_location(request.commit),
            "the build is no longer served",
            hint="The server has pruned it.",
        ) from error


def _target(request: BuildRequest, data: bytes, location: str) -> Target:
    try:
        commit = decode_commit(data)
    except FormatError as error:
        raise WrongBytesError(location, error.message) from error
    if commit.branch != request.branch:
        raise WrongBranchError(
            location, f"a commit of branch {commit.branch}, asked for as one of {request.branch}"
        )
    return Target(request.commit, data, commit)


def pin_build(repository: Repository, commit_id: ObjectId) -> None:
    """Keep a commit from prune, durably, from the moment on when it is here."""
    make_directories(repository.path, Path("state/pins"), mode=0o700)
    write_durably(pin_of(repository, commit_id), f"{commit_id.hex()}\n".encode())


def release_builds(repository: Repository, keep: Collection[ObjectId] = ()) -> int:
    """Leave to prune what bisections have pinned, but for `keep`; returns how many were released.

    Killed half way, it may be called again.
    """
    directory = repository.state / "pins"
    kept = {pin_of(repository, commit_id).name for commit_id in keep}
    if not directory.exists():
        return 0
    released = [
        path for path in directory.iterdir() if _PIN.fullmatch(path.name) and path.name not in kept
    ]
    for path in released:
        path.unlink(missing_ok=True)
    if released:
        sync_directory(directory)
    return len(released)


def pin_of(repository: Repository, commit_id: ObjectId) -> Path:
    """The file by which bisections keep the build from prune."""
    return repository.state / "pins" / f"bisect-{commit_id.hex()[:16]}"
