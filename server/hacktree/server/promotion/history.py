"""What the repository says of a suite: the source's builds, and what was promoted last."""

from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

from hacktree.common.objects.commit import PROMOTED_FROM, Commit
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.editing import head_signed
from hacktree.common.trust.store import TrustStore
from hacktree.server.promotion.decision import Build
from hacktree.server.promotion.suites import Suite

MAX_BUILDS: Final = 1000
"""Builds of a source that are looked at; what is older waits for nothing any more."""

_MAX_ORIGINS: Final = 16


class Commits(Protocol):
    """Where commits are read: a repository, or a farm whose commits are verified."""

    def has_meta(self, object_id: ObjectId) -> bool:
        """Whether the commit is there."""

    def load_commit(self, object_id: ObjectId) -> Commit:
        """The commit with this id, verified."""


class Promotion(msgspec.Struct, frozen=True):
    """A commit of the target: which build of the source it carries, and when it was made."""

    id: ObjectId
    commit: Commit
    source: ObjectId
    source_sequence: int

    @property
    def time(self) -> int:
        """Seconds since 1970."""
        return self.commit.time


def source_of(commit: Commit) -> ObjectId | None:
    """The build that a commit was promoted from."""
    value = commit.metadata.get(PROMOTED_FROM)
    try:
        return parse_object_id(value) if isinstance(value, str) else None
    except NameInvalidError:
        return None


def published_head(repository: Repository, branch: BranchName) -> ObjectId | None:
    """Where a branch is: where it is signed to be, in a repository with trust."""
    store = TrustStore(repository)
    return head_signed(store.load(), branch) if store.exists else read_ref(repository, branch)


def walk_branch(
    commits: Commits, branch: BranchName, start: ObjectId | None
) -> Iterator[tuple[ObjectId, Commit]]:
    """The builds of a branch from `start` on, newest first, as far as they are here.

    A first parent that is a build of another branch, or has another number than its child's - 1,
    ends the walk: it is no ancestor in this one.
    """
    current, expected = start, None
    while current is not None and commits.has_meta(current):
        commit = commits.load_commit(current)
        if commit.branch != branch or expected not in (None, commit.sequence):
            return
        yield current, commit
        current, expected = (commit.parents[0] if commit.parents else None), commit.sequence - 1


def last_promotion(commits: Commits, suite: Suite, start: ObjectId | None) -> Promotion | None:
    """The newest commit of the target, from `start` on, that carries a build of the source.

    Builds that were committed to the target, or promoted from elsewhere, by hand are passed over.
    """
    for object_id, commit in walk_branch(commits, suite.target, start):
        source = source_of(commit)
        if source is None or not commits.has_meta(source):
            # Pruned: older than everything that is left of the source.
            continue
        build = commits.load_commit(source)
        if build.branch == suite.source and build.root == commit.root:
            return Promotion(object_id, commit, source, build.sequence)
    return None


class History(msgspec.Struct, frozen=True):
    """The builds of a source that matter, newest first, and what was promoted last."""

    builds: tuple[Build, ...]
    last: Promotion | None


def read_history(repository: Repository, suite: Suite) -> History:
    """How a suite's branches are."""
    target = read_ref(repository, suite.target)
    return history_from(repository, suite, target, published_head(repository, suite.source))


def history_from(
    commits: Commits, suite: Suite, target: ObjectId | None, source: ObjectId | None
) -> History:
    """How they are with the heads of target and source at these commits."""
    last = last_promotion(commits, suite, target)
    after = None if last is None else last.source_sequence
    return History(tuple(_read_builds(commits, suite, source, after)), last)


def _read_builds(
    commits: Commits, suite: Suite, start: ObjectId | None, after: int | None
) -> list[Build]:
    """The builds of the source, newest first: those after sequence `after`, and one before them."""
    builds = []
    for object_id, commit in walk_branch(commits, suite.source, start):
        builds.append(Build(object_id, commit.sequence, _origins(commits, commit)))
        if commit.sequence <= (after or 0) or len(builds) == MAX_BUILDS:
            break
    return builds


def build_of(commits: Commits, build: ObjectId) -> Build:
    """A commit as a build."""
    commit = commits.load_commit(build)
    return Build(build, commit.sequence, _origins(commits, commit))


def _origins(commits: Commits, commit: Commit) -> tuple[ObjectId, ...]:
    origins: list[ObjectId] = []
    source = source_of(commit)
    while source is not None and source not in origins and len(origins) < _MAX_ORIGINS:
        origins.append(source)
        if not commits.has_meta(source):
            break
        source = source_of(commits.load_commit(source))
    return tuple(origins)
