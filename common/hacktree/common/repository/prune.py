"""Deleting what no kept commit needs. docs/architecture.md, "Prune".

Everything is worked out under the shared lock; then, under the exclusive lock, what appeared since
is worked out as well and the rest is deleted. Whoever adds objects holds the shared lock from the
first object it relies on to the ref that names its commit, so nothing in progress is harmed.

Order of deletion: commits, sync, then trees and content. So a commit that is present has everything
it reaches even if prune is killed at any point, and the next prune finds what is left.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from hacktree.common.errors import NO_SPACE, CorruptError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import Tree
from hacktree.common.repository.condemned import condemn, read_condemned, write_condemned
from hacktree.common.repository.durable import TEMPORARY_SUFFIX, sync_directories
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.leases import lease_names, read_lease
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.reachability import (
    find_commits,
    list_objects,
    mark_commit,
    object_id_of,
)
from hacktree.common.repository.refs import list_refs, parse_ref
from hacktree.common.repository.repository import (
    LOCK_TIMEOUT,
    ObjectCorruptError,
    ObjectMissingError,
    Repository,
)
from hacktree.common.repository.retention import Ancestor, Policy, kept_commits

_ROOT_NAME = re.compile(r".*-([0-9a-f]{9})\.\d+")
_HOUR = 3600.0

Progress = Callable[[int, int], None]
"""Told (objects deleted, objects to delete)."""


class PinUnreadableError(CorruptError):
    """A pin does not say which commit it keeps, so nothing may be deleted."""


class PrunePlan(msgspec.Struct, frozen=True):
    """What to delete, by object name; `condemned` is the record of what is unreachable."""

    commits: list[str]
    objects: list[str]
    kept_by_grace: int
    condemned: dict[str, float]
    kept_commits: int


class PruneReport(msgspec.Struct):
    """What was, or would be, deleted. `commits` are ids; `freed` counts bytes no root holds."""

    commits: list[str] = []
    objects: int = 0
    freed: int = 0
    kept_by_grace: int = 0
    kept_commits: int = 0


def grace_seconds(repository: Repository) -> float:
    """How long unreachable objects stay: bare repositories serve nobody, so not at all."""
    if repository.mode is not Mode.ARCHIVE:
        return 0.0
    return repository.config.keep_unreachable_hours * _HOUR


def plan_prune(repository: Repository, policy: Policy, *, now: float, grace: float) -> PruneReport:
    """What `prune` would do now, as a report; changes nothing."""
    with repository.lock(LockKind.SHARED):
        plan = _Survey(repository, policy, now, grace).plan()
        return _report(plan, sum(_size(repository, name) for name in plan.commits + plan.objects))


def prune(
    repository: Repository,
    policy: Policy,
    *,
    now: float,
    grace: float,
    timeout: float = LOCK_TIMEOUT,
    progress: Progress | None = None,
) -> PruneReport:
    """Delete what `policy`, pins, leases and roots don't keep; `now` in seconds since 1970.

    Unreachable objects stay until `grace` seconds after they were first seen so. Raises `BusyError`
    when somebody else holds the lock for longer than `timeout` seconds, `CorruptError` when what
    is to be kept can't be told.
    """
    survey = _Survey(repository, policy, now, grace)
    with repository.lock(LockKind.SHARED):
        survey.plan()
    with repository.lock(LockKind.EXCLUSIVE, timeout=timeout):
        plan = survey.plan()
        return _execute(repository, plan, progress)


class _CommitNode(msgspec.Struct, frozen=True):
    parents: tuple[ObjectId, ...]
    time: int


class _Survey:
    """Works out plans; a second one re-uses what the first has learnt of immutable objects."""

    def __init__(self, repository: Repository, policy: Policy, now: float, grace: float) -> None:
        self._repository = repository
        self._policy = policy
        self._now = now
        self._grace = grace
        self._nodes: dict[ObjectId, _CommitNode] = {}
        self._marked: set[str] = set()
        self._marked_commits: set[ObjectId] = set()
        self._kinds: dict[str, bool] = {}
        self._spared: set[str] = set()
        self._spared_commits: set[str] = set()

    def plan(self) -> PrunePlan:
        """The plan for what is there now. What was kept by an earlier plan stays kept."""
        repository = self._repository
        kept = self._kept_by_refs() | self._kept_by_pins() | self._kept_by_leases()
        names = list_objects(repository).names
        for commit_id in kept:
            self._mark(commit_id)
        commits = self._commits_among(name for name in names if name not in self._marked)
        for commit_id in self._kept_by_roots(commits):
            self._mark(commit_id)
        unreachable = [name for name in names if name not in self._marked]
        record = condemn(read_condemned(repository), unreachable, self._now)
        due = {name for name, seen in record.items() if self._now - seen >= self._grace}
        self._spare(name for name in commits if name in record and name not in due)
        doomed_commits = [n for n in commits if n in due and n not in self._marked]
        doomed = set(doomed_commits)
        objects = [n for n in unreachable if n in due and n not in self._spared and n not in doomed]
        deleted = len(doomed_commits) + len(objects)
        return PrunePlan(
            doomed_commits, objects, len(unreachable) - deleted, record, len(self._marked_commits)
        )

    def _kept_by_refs(self) -> set[ObjectId]:
        kept: set[ObjectId] = set()
        for ref, head in list_refs(self._repository).items():
            kept.update(kept_commits(self._ancestors(head), self._policy.rule_for(ref)))
        return kept

    def _ancestors(self, head: ObjectId) -> list[Ancestor]:
        """The commits behind `head` that are here, by generation; history ends at an absent one."""
        ancestors: list[Ancestor] = []
        seen = {head}
        generation = [head]
        self._node(head)
        depth = 0
        while generation:
            older: list[ObjectId] = []
            for commit_id in generation:
                if depth > 0 and not self._repository.has_meta(commit_id):
                    continue
                node = self._node(commit_id)
                ancestors.append(Ancestor(commit_id, depth, self._now - node.time))
                older.extend(parent for parent in node.parents if parent not in seen)
                seen.update(node.parents)
            generation = list(dict.fromkeys(older))
            depth += 1
        return ancestors

    def _node(self, commit_id: ObjectId) -> _CommitNode:
        node = self._nodes.get(commit_id)
        if node is None:
            commit = self._repository.load_commit(commit_id)
            node = self._nodes[commit_id] = _CommitNode(commit.parents, commit.time)
        return node

    def _kept_by_pins(self) -> set[ObjectId]:
        pins = read_pins(self._repository)
        return {commit_id for commit_id in pins.values() if self._repository.has_meta(commit_id)}

    def _kept_by_leases(self) -> set[ObjectId]:
        """What is gone already, of a range that was leased late or restored, is nobody's fault."""
        leases = (read_lease(self._repository, name) for name in lease_names(self._repository))
        lasting = [one for one in leases if one is not None and one.until > self._now]
        kept = {commit_id for one in lasting for commit_id in one.commits}
        return {commit_id for commit_id in kept if self._repository.has_meta(commit_id)}

    def _kept_by_roots(self, commits: Iterable[str]) -> list[ObjectId]:
        prefixes = root_commit_prefixes(self._repository)
        ids = (object_id_of(name) for name in commits) if prefixes else ()
        return [commit_id for commit_id in ids if commit_id.hex()[:9] in prefixes]

    def _mark(self, commit_id: ObjectId) -> None:
        if commit_id in self._marked_commits:
            return
        repository = self._repository
        commit = repository.load_commit(commit_id)
        mark_commit(repository.load_tree, repository.mode, commit_id, commit, self._marked)
        self._marked_commits.add(commit_id)

    def _commits_among(self, names: Iterable[str]) -> list[str]:
        unread = [name for name in names if name not in self._kinds]
        commits = set(find_commits(self._repository, unread))
        self._kinds.update((name, name in commits) for name in unread)
        return [name for name, is_commit in self._kinds.items() if is_commit]

    def _spare(self, commits: Iterable[str]) -> None:
        """Note what commits in their period of grace need: while they stay, they stay whole."""
        for name in commits:
            if name in self._spared_commits:
                continue
            self._spared_commits.add(name)
            commit_id = object_id_of(name)
            commit = self._try_load_commit(commit_id)
            if commit is not None:
                mark_commit(
                    self._try_load_tree,
                    self._repository.mode,
                    commit_id,
                    commit,
                    self._spared,
                    self._marked,
                )

    def _try_load_commit(self, commit_id: ObjectId) -> Commit | None:
        try:
            return self._repository.load_commit(commit_id)
        except (ObjectMissingError, ObjectCorruptError):
            return None  # Nothing that is kept needs it, so its damage is nobody's.

    def _try_load_tree(self, tree_id: ObjectId) -> Tree:
        try:
            return self._repository.load_tree(tree_id)
        except (ObjectMissingError, ObjectCorruptError):
            return Tree(1, ())


def read_pins(repository: Repository) -> dict[str, ObjectId]:
    """The commits that `state/pins/` keeps, by pin; raises `PinUnreadableError`."""
    directory = repository.state / "pins"
    pins: dict[str, ObjectId] = {}
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return {}
    for name in names:
        if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX):
            continue
        path = directory / name
        try:
            pins[name] = parse_ref(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, NameInvalidError) as error:
            raise PinUnreadableError(
                f"{path} does not say which commit it keeps: {error}",
                hint="Nothing was deleted. Mend the pin, or delete it if nothing needs it.",
            ) from error
    return pins


def root_commit_prefixes(repository: Repository) -> set[str]:
    """The first nine digits of the commits that roots were checked out from, from their names."""
    try:
        names = os.listdir(repository.path / "roots")
    except FileNotFoundError:
        return set()
    return {match[1] for name in names if (match := _ROOT_NAME.fullmatch(name))}


def _execute(repository: Repository, plan: PrunePlan, progress: Progress | None) -> PruneReport:
    doomed = plan.commits + plan.objects
    # The due ones stay on the record until they are gone, or a crash would renew their grace.
    archive = repository.mode is Mode.ARCHIVE
    if archive and plan.condemned != read_condemned(repository):
        try:
            write_condemned(repository, plan.condemned)
        except OSError as error:
            # What is due makes the room; at worst a crash now renews its grace.
            if error.errno not in NO_SPACE or not doomed:
                raise
    freed = _unlink(repository, plan.commits)
    sync_directories(repository.objects / directory for directory in {n[:2] for n in plan.commits})
    # What follows needs no sync: an object that a power cut brings back is merely pruned again.
    total = len(doomed)
    for start in range(0, len(plan.objects), 1000):
        if progress is not None:
            progress(len(plan.commits) + start, total)
        freed += _unlink(repository, plan.objects[start : start + 1000])
    if progress is not None:
        progress(total, total)
    if archive and doomed:
        gone = set(doomed)
        left = {name: seen for name, seen in plan.condemned.items() if name not in gone}
        write_condemned(repository, left)
    return _report(plan, freed)


def _unlink(repository: Repository, names: list[str]) -> int:
    freed = 0
    for name in names:
        freed += _size(repository, name)
        Path(repository.objects, name).unlink(missing_ok=True)
    return freed


def _size(repository: Repository, name: str) -> int:
    try:
        status = os.lstat(f"{repository.objects}/{name}")
    except FileNotFoundError:
        return 0
    return status.st_size if status.st_nlink == 1 else 0


def _report(plan: PrunePlan, freed: int) -> PruneReport:
    return PruneReport(
        commits=[object_id_of(name).hex() for name in plan.commits],
        objects=len(plan.objects),
        freed=freed,
        kept_by_grace=plan.kept_by_grace,
        kept_commits=plan.kept_commits,
    )
