"""Moving a branch to a commit that was pushed: the end of every publication.

Everything that the commit reaches is in `objects/`, durably, before (invariant 1). History comes
before the ref, as in a local commit; docs/architecture.md, "Write order".
"""

from datetime import UTC, datetime

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
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


class WrongCommitError(UserError):
    """The commit can't become the head of the branch, whoever pushes it and whenever."""


class HeadMovedError(RefConflictError):
    """The branch's head is not the one that the commit follows."""


def publish_head(
    repository: Repository,
    branch: BranchName,
    new: ObjectId,
    expected: ObjectId | None,
    role: bytes | None,
) -> None:
    """Make `new`, which is in `objects/` with all that it reaches, the head of `branch`.

    Nothing happens if it is the head already. `expected` is the head that it follows, None for a
    new branch. `role` is for repositories with trust and must be None. Raises `WrongCommitError`
    and `HeadMovedError`, which names the build that is in the way.
    """
    if role is not None:
        raise WrongCommitError("this repository has no trust: signed metadata can't be published")
    commit = repository.load_commit(new)
    with hold_refs(repository):
        if read_ref(repository, branch) == new:
            return
        check_follows(repository, branch, commit, expected)
        publish_history(repository, branch, new)
        move_ref(repository, branch, new, expected=expected)


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
    made = datetime.fromtimestamp(commit.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
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
