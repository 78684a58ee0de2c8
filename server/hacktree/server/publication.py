"""Moving a branch to a commit that was pushed: the end of every publication.

Everything that the commit reaches is in `objects/`, durably, before (invariant 1). History comes
before the ref, as in a local commit; docs/architecture.md, "Write order".
"""

from datetime import datetime
from typing import Final

import msgspec
from tuf.api.metadata import Metadata, Targets

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.moments import display_time
from hacktree.common.objects.names import BranchName, branch_conflict
from hacktree.common.repository.published_history import publish_history
from hacktree.common.repository.refs import (
    RefConflictError,
    hold_refs,
    list_refs,
    move_ref,
    read_ref,
)
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.editing import (
    RoleMissingError,
    branch_version,
    decode_role,
    publish_branch,
    signed_heads,
)
from hacktree.common.trust.roles import only_head
from hacktree.common.trust.store import SignatureMissingError, TrustStore


class WrongCommitError(UserError):
    """The commit can't become the head of the branch, whoever pushes it and whenever."""


class SignatureWrongError(UserError):
    """The head is not signed as the repository's metadata asks for."""


class HeadMovedError(RefConflictError):
    """The branch's head is not the one that the commit follows."""


UNSIGNED: Final = -1
"""The version of a branch's signed metadata where a repository's heads are not signed."""


class NewHead(msgspec.Struct, frozen=True):
    """A commit that is to be the head of `branch`, after `expected` (None: of a new branch).

    `role`: the branch's next metadata, signed, where the repository's heads are signed; else None.
    """

    branch: BranchName
    id: ObjectId
    expected: ObjectId | None
    role: bytes | None = None


def publish_head(repository: Repository, head: NewHead, now: datetime) -> None:
    """Make a commit, which is in `objects/` with all that it reaches, the head of its branch.

    Nothing happens if it is the head already. History comes first; where heads are signed the
    metadata's timestamp is the commit point, and `recover_heads` does the rest after a crash.
    Raises `WrongCommitError`, `SignatureWrongError`, and `HeadMovedError`, which names the build
    that is in the way.
    """
    commit = repository.load_commit(head.id)
    store = TrustStore(repository)
    role = _decode_role(store, head)
    with hold_refs(repository):
        if read_ref(repository, head.branch) == head.id:
            return
        check_follows(repository, head.branch, commit, head.expected)
        publish_history(repository, head.branch, head.id)
        if role is not None:
            _publish_role(store, head, role, now)
        move_ref(repository, head.branch, head.id, expected=head.expected)


def renew_head(repository: Repository, head: NewHead, now: datetime) -> None:
    """Publish a newer signature of what is the head already; nothing happens for the same one.

    Raises `SignatureWrongError`.
    """
    store = TrustStore(repository)
    role = _decode_role(store, head)
    if role is not None and role.signed.version != branch_version(store.load(), head.branch):
        _publish_role(store, head, role, now)


def published_version(repository: Repository, branch: BranchName) -> int:
    """The version of the branch's signed metadata, or `UNSIGNED`."""
    store = TrustStore(repository)
    return branch_version(store.load(), branch) if store.exists else UNSIGNED


def recover_heads(repository: Repository) -> list[BranchName]:
    """Move refs to signed heads that follow them: a publication was killed after its commit point.

    Returns the branches. A ref that is ahead of its signature is left alone: it is not signed yet.
    """
    store = TrustStore(repository)
    if not store.exists:
        return []
    moved = []
    with hold_refs(repository):
        for branch, head in signed_heads(store.load()).items():
            current = read_ref(repository, branch)
            if current == head or not repository.has_meta(head):
                continue
            parents = repository.load_commit(head).parents
            if (parents[0] if parents else None) == current:
                publish_history(repository, branch, head)
                move_ref(repository, branch, head, expected=current)
                moved.append(branch)
    return moved


def _decode_role(store: TrustStore, head: NewHead) -> Metadata[Targets] | None:
    if head.role is None:
        if store.exists:
            raise SignatureWrongError(
                f"the heads of this repository are signed, and nobody signed this one of "
                f"{head.branch}",
                hint="Push with --sign-with KEY: the branch's key.",
            )
        return None
    if not store.exists:
        raise SignatureWrongError("the heads of this repository are not signed")
    try:
        role = decode_role(head.role)
        if only_head(role.signed, head.branch) != head.id:
            raise FormatError("it signs another commit")
    except FormatError as error:
        raise SignatureWrongError(f"the signature of {head.branch}: {error.message}") from error
    return role


def _publish_role(store: TrustStore, head: NewHead, role: Metadata[Targets], now: datetime) -> None:
    length = len(store.repository.read_meta(head.id, MAX_COMMIT_SIZE))
    if role.signed.targets[str(head.branch)].length != length:
        raise SignatureWrongError(f"the signature of {head.branch} is for a commit of other length")
    try:
        with store.hold():
            publish_branch(store, head.branch, role, now)
    except (SignatureMissingError, RoleMissingError, FormatError) as error:
        raise SignatureWrongError(
            f"{head.branch}: {error.message}", hint="Which keys may sign it: hacktree trust status."
        ) from error


def check_follows(
    repository: Repository, branch: BranchName, commit: Commit, expected: ObjectId | None
) -> None:
    """Refuse a commit that can't be the next build of the branch as it is now.

    Decides only while the caller holds `hold_refs`; earlier it spares an upload in vain.
    """
    if commit.branch != branch:
        raise WrongCommitError(
            f"the commit is a build of {commit.branch}, not of {branch}",
            hint=f"Push it to {commit.branch}, or commit the tree to {branch}.",
        )
    if (commit.parents[0] if commit.parents else None) != expected:
        raise WrongCommitError("the expected head is not the commit's first parent")
    head = read_ref(repository, branch)
    if head != expected:
        raise HeadMovedError(
            f"{branch} is at {describe_build(repository, head)}, which the pushed commit does "
            "not follow",
            hint="Commit the tree again on top of that build, then push.",
        )
    if head is not None and commit.sequence != repository.load_commit(head).sequence + 1:
        raise WrongCommitError("the commit's sequence is not its parent's + 1")
    conflict = branch_conflict(branch, list_refs(repository))
    if conflict is not None:
        raise WrongCommitError(f"{branch} can't stand beside the branch {conflict}")


def describe_build(repository: Repository, head: ObjectId | None) -> str:
    """A build for a person: id, number, version and time."""
    if head is None:
        return "no build yet"
    commit = repository.load_commit(head)
    version = f", version {commit.version}" if commit.version else ""
    made = display_time(commit.time)
    return f"{head.hex()} (build {commit.sequence}{version}, {made})"


def is_published(
    repository: Repository, branch: BranchName, wanted: ObjectId, commit: Commit
) -> bool:
    """Whether the commit is the branch's head or one of the builds before it."""
    current = read_ref(repository, branch)
    while current is not None and current != wanted:
        if not repository.has_meta(current):
            return False
        build = repository.load_commit(current)
        if build.sequence <= commit.sequence or not build.parents:
            return False
        current = build.parents[0]
    return current == wanted
