"""Pushing a commit: open, ask what is missing, send it in batches, finish.

The server remembers what it has acknowledged, so this can be killed at any point and run again.
The repository is locked, shared, all the while: nothing that is to be sent may be pruned.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from hacktree.client.push.batches import (
    NotPushableError,
    next_batch,
    objects_to_push,
    read_batch,
    require_archive,
)
from hacktree.client.push.connection import PushServer
from hacktree.client.push.refused import BranchMovedError, ObjectsWantedError, PushGoneError
from hacktree.client.retry import TransientError, retrying
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit, decode_commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.push.framing import ObjectKey
from hacktree.common.push.messages import OpenAnswer, OpenRequest
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.repository import Repository

_MAX_ROUNDS: Final = 5
_MAX_BUILDS: Final = 1000
"""Builds that one push brings, oldest first, where the server is behind."""

Report = Callable[[int, int], None]
"""Told (objects sent, objects to send) of one build."""


Signer = Callable[[BranchName, ObjectId, int, int], bytes]
"""Signs a branch's head: given the commit's id and length and the version that is published."""


class UnsignedPushError(UserError):
    """The server wants a signature, and no key was given."""


class PushTotals(msgspec.Struct):
    """What was sent: builds, and objects and bytes that were acknowledged."""

    builds: int = 0
    objects: int = 0
    bytes: int = 0


class Build(msgspec.Struct, frozen=True):
    """A commit of the repository that is pushed from."""

    id: ObjectId
    encoded: bytes
    commit: Commit

    @property
    def parent(self) -> ObjectId | None:
        """The branch's build before."""
        return self.commit.parents[0] if self.commit.parents else None

    def opening(self) -> OpenRequest:
        """What opens its push."""
        return OpenRequest(1, self.commit.branch, self.parent or b"", self.encoded)


async def push(
    repository: Repository,
    branch: BranchName,
    commit_id: ObjectId,
    server: PushServer,
    report: Report,
    signer: Signer | None = None,
) -> PushTotals:
    """Make the commit the head of `branch` on the server; nothing is sent if it is published.

    `signer` is needed where the server's heads are signed; else `UnsignedPushError`.
    Builds before it that the server lacks go first. Raises `BranchMovedError` when the server's
    branch holds another build instead, and `PeerError`.
    """
    require_archive(repository)
    totals = PushTotals()
    with repository.lock(LockKind.SHARED):
        chain = [load_build(repository, branch, commit_id)]
        conflict: BranchMovedError | None = None
        while chain:
            try:
                answer = await server.open(chain[-1].opening())
            except BranchMovedError as error:
                chain.append(_build_before(repository, branch, chain, error))
                conflict = error
                continue
            if answer.push:
                await _push_build(repository, chain.pop(), answer, server, report, totals, signer)
                conflict = None
            elif conflict is not None:
                raise conflict  # The parent is published, and another build follows it.
            else:
                chain.pop()
    return totals


def load_build(repository: Repository, branch: BranchName, commit_id: ObjectId) -> Build:
    """The commit, which must be one of `branch`; raises `NotPushableError`."""
    encoded = repository.read_meta(commit_id, MAX_COMMIT_SIZE)
    commit = decode_commit(encoded)
    if commit.branch != branch:
        raise NotPushableError(
            f"{commit_id.hex()} is a build of {commit.branch}, not of {branch}",
            hint=f"Push it to {commit.branch}, or make it one: "
            f"hacktree commit {branch} --from {commit_id.hex()[:12]}",
        )
    return Build(commit_id, encoded, commit)


def _build_before(
    repository: Repository, branch: BranchName, chain: list[Build], error: BranchMovedError
) -> Build:
    """The parent of the oldest of `chain`, if it is here; else the conflict is final."""
    parent = chain[-1].parent
    if parent is None or len(chain) >= _MAX_BUILDS or not repository.has_meta(parent):
        raise error
    return load_build(repository, branch, parent)


def _sign(build: Build, answer: OpenAnswer, signer: Signer | None) -> bytes | None:
    """The next signed metadata of the branch; None where the server's heads are not signed."""
    if answer.role < 0:
        return None
    if signer is None:
        raise UnsignedPushError(
            f"the server's heads are signed, and nothing signs {build.commit.branch}",
            hint="--sign-with KEY, the branch's key. All that was sent stays on the server for "
            "when you push again.",
        )
    return signer(parse_branch_name(build.commit.branch), build.id, len(build.encoded), answer.role)


async def _push_build(
    repository: Repository,
    build: Build,
    answer: OpenAnswer,
    server: PushServer,
    report: Report,
    totals: PushTotals,
    signer: Signer | None,
) -> None:
    keys = objects_to_push(repository, build.id, build.commit)
    for _ in range(_MAX_ROUNDS):
        try:
            await _send(repository, answer.push, keys, server, report, totals)
            await server.finish(answer.push, _sign(build, answer, signer))
        except (ObjectsWantedError, PushGoneError) as error:
            # A prune on the server; or so long a pause that the push expired.
            wanted = error
            answer = await server.open(build.opening())
            if not answer.push:
                break
        else:
            break
    else:
        raise wanted
    totals.builds += 1


async def _send(
    repository: Repository,
    push_id: str,
    keys: list[ObjectKey],
    server: PushServer,
    report: Report,
    totals: PushTotals,
) -> None:
    """Send what the server lacks of `keys`; after a failure ask again what arrived."""
    missing = await server.find_missing(push_id, keys)
    total = len(missing)
    interrupted = False

    async def send_rest() -> None:
        nonlocal missing, interrupted
        if interrupted:
            missing = await server.find_missing(push_id, missing)
        progressed = False
        try:
            while missing:
                batch = next_batch(repository, missing)
                await server.send_batch(push_id, batch, read_batch(repository, batch))
                progressed = True
                missing = missing[len(batch.keys) :]
                totals.objects += len(batch.keys)
                totals.bytes += batch.length
                report(total - len(missing), total)
        except TransientError as error:
            interrupted = True
            error.progressed = progressed
            raise

    await retrying(server.patience, send_rest)
