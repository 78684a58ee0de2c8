"""Verifying a repository: every object against its name, every commit down to its files.

First every content file is read and hashed on all cores, then the metas are decoded while the
sizes of the content are known; of each tree only its edges and sums are remembered. Then every
commit is walked along those edges. Who needs a bad object is worked out only if there is one.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec

from hacktree.common.errors import CorruptError
from hacktree.common.objects.commit import Commit, Totals
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, FileEntry, Tree
from hacktree.common.objects.walk import MAX_DEPTH
from hacktree.common.repository.durable import (
    TEMPORARY_SUFFIX,
    make_directories,
    sync_directories,
)
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.objectnames import META_SUFFIX, content_name, meta_name
from hacktree.common.repository.reachability import list_objects, object_id_of
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import LOCK_TIMEOUT, Repository
from hacktree.common.repository.verification import DamageError, Verified, verify_object

_DAMAGED: Final = Path("state/damaged")
_BATCH: Final = 128
"""Objects per task of a thread."""

Progress = Callable[[int, int], None]
"""Told (objects verified, objects in all)."""


class Build(msgspec.Struct, frozen=True):
    """A commit as people know it."""

    branch: str
    sequence: int
    version: str
    commit: str


class Finding(msgspec.Struct):
    """One object that is broken or missing; `object` is its name relative to objects/.

    `builds` need it, `roots` link to its inode, `refs` point at it. `set_aside` is where a repair
    put it, relative to the repository.
    """

    object: str
    problem: Literal["broken", "missing"]
    why: str
    builds: list[Build] = []
    roots: list[str] = []
    refs: list[str] = []
    set_aside: str = ""


class FsckReport(msgspec.Struct):
    """What was verified and found. `foreign`: files in objects/ that are no objects, harmless."""

    objects: int = 0
    commits: int = 0
    bytes: int = 0
    findings: list[Finding] = []
    refs: list[str] = []
    foreign: list[str] = []

    @property
    def intact(self) -> bool:
        """Whether nothing is broken or missing."""
        return not self.findings and not self.refs


def fsck(
    repository: Repository, *, jobs: int | None = None, progress: Progress | None = None
) -> FsckReport:
    """Verify everything, under the shared lock; changes nothing."""
    with repository.lock(LockKind.SHARED):
        return _Check(repository, jobs or os.cpu_count() or 1, progress).run()


def set_aside_broken(
    repository: Repository, report: FsckReport, *, timeout: float = LOCK_TIMEOUT
) -> int:
    """Move what `report` calls broken to `state/damaged/`, so that the next pull fetches it.

    Each is verified again under the exclusive lock: another process may have mended it. Returns how
    many were moved; inodes are kept, since they are evidence and roots may link to them.
    """
    touched = set()
    moved = 0
    with repository.lock(LockKind.EXCLUSIVE, timeout=timeout):
        for finding in report.findings:
            if finding.problem != "broken" or not _is_damaged(repository, finding.object):
                continue
            make_directories(repository.path, _DAMAGED, mode=0o700)
            target = _free_name(repository, finding.object)
            os.rename(f"{repository.objects}/{finding.object}", repository.path / target)
            finding.set_aside = str(target)
            touched.add(repository.objects / finding.object[:2])
            moved += 1
        if moved:
            # The evidence is durable under its new name before the old one is durably gone.
            sync_directories([repository.path / _DAMAGED])
            sync_directories(touched)
    return moved


def _is_damaged(repository: Repository, name: str) -> bool:
    try:
        verify_object(repository, name)
    except DamageError:
        return True
    return False


class _Node(msgspec.Struct, frozen=True):
    """A tree as far as the walk of a commit needs it; `faults` name objects with what is wrong."""

    files: int
    symlinks: int
    bytes: int
    children: tuple[ObjectId, ...]
    child_sizes: tuple[int, ...]
    size: int
    faults: tuple[tuple[str, str], ...]


class _Check:
    def __init__(self, repository: Repository, jobs: int, progress: Progress | None) -> None:
        self._repository = repository
        self._jobs = jobs
        self._progress = progress
        self._done = 0
        self._total = 0
        self._sizes: dict[str, int] = {}
        self._findings: dict[str, Finding] = {}
        self._nodes: dict[ObjectId, _Node] = {}
        self._commits: dict[ObjectId, Commit] = {}
        self._sums: dict[ObjectId, tuple[Totals, int] | None] = {}

    def run(self) -> FsckReport:
        listing = list_objects(self._repository)
        self._total = len(listing.names)
        report = FsckReport(foreign=listing.foreign)
        metas = [name for name in listing.names if name.endswith(META_SUFFIX)]
        with ThreadPoolExecutor(self._jobs) as executor:
            contents = (name for name in listing.names if not name.endswith(META_SUFFIX))
            report.bytes += self._verify(executor, contents, self._keep_size)
            report.bytes += self._verify(executor, metas, self._keep_meta)
        for commit_id, commit in self._commits.items():
            self._check_commit(commit_id, commit)
        report.refs = self._check_refs()
        self._attribute()
        report.objects = self._done
        report.commits = len(self._commits)
        report.findings = [self._findings[name] for name in sorted(self._findings)]
        return report

    def _verify(
        self,
        executor: ThreadPoolExecutor,
        names: Iterable[str],
        keep: Callable[[str, Verified], None],
    ) -> int:
        """Verify on all threads, handing each sound object to `keep` on this one."""
        size = 0
        batches = _batches(names)
        running = {self._submit(executor, batch) for batch in islice(batches, 2 * self._jobs)}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running.update(
                    self._submit(executor, batch) for batch in islice(batches, len(finished))
                )
                for future in finished:
                    size += self._gather(future.result(), keep)
                if self._progress is not None:
                    self._progress(self._done, self._total)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
        return size

    def _gather(
        self,
        results: list[tuple[str, Verified | str | None]],
        keep: Callable[[str, Verified], None],
    ) -> int:
        size = 0
        for name, result in results:
            self._done += 1
            if isinstance(result, str):
                self._findings[name] = Finding(name, "broken", result)
            elif result is not None:
                size += result.size
                keep(name, result)
        return size

    def _submit(
        self, executor: ThreadPoolExecutor, batch: list[str]
    ) -> "Future[list[tuple[str, Verified | str | None]]]":
        return executor.submit(_verify_batch, self._repository, batch)

    def _keep_size(self, name: str, verified: Verified) -> None:
        self._sizes[name] = verified.size

    def _keep_meta(self, name: str, verified: Verified) -> None:
        object_id = object_id_of(name)
        if isinstance(verified.meta, Commit):
            self._commits[object_id] = verified.meta
        elif verified.meta is not None:
            self._nodes[object_id] = self._to_node(verified.meta, verified.size)

    def _to_node(self, tree: Tree, size: int) -> _Node:
        files = symlinks = content = 0
        children: list[ObjectId] = []
        child_sizes: list[int] = []
        faults: list[tuple[str, str]] = []
        sizes, mode = self._sizes, self._repository.mode
        for entry in tree.entries:
            if isinstance(entry, FileEntry):
                files += 1
                content += entry.size
                name = content_name(mode, entry)
                found = sizes.get(name)
                if found != entry.size:
                    faults.append((name, _size_fault(found, entry.size)))
            elif isinstance(entry, DirectoryEntry):
                children.append(entry.id)
                child_sizes.append(entry.size)
            else:
                symlinks += 1
        return _Node(
            files, symlinks, content, tuple(children), tuple(child_sizes), size, tuple(faults)
        )

    def _check_commit(self, commit_id: ObjectId, commit: Commit) -> None:
        own = meta_name(commit_id)
        root = self._nodes.get(commit.root.id)
        if root is None:
            self._lacks(meta_name(commit.root.id), "")
        elif root.size != commit.root.size:
            self._breaks(own, f"its root is {root.size} bytes, it says {commit.root.size}")
        try:
            sums = self._sum(commit.root.id)
        except DamageError as error:
            self._breaks(own, str(error))
            return
        if sums is not None and sums[0] != commit.totals:
            self._breaks(own, f"its tree unfolds to {sums[0]}, it says {commit.totals}")

    def _sum(self, root: ObjectId) -> tuple[Totals, int] | None:
        """What a tree unfolds to, and its depth; None where something below it is missing."""
        stack = [root]
        while stack:
            tree_id = stack[-1]
            node = self._nodes.get(tree_id)
            if tree_id in self._sums or node is None:
                self._sums.setdefault(tree_id, None)
                stack.pop()
                continue
            unknown = [child for child in node.children if child not in self._sums]
            if unknown:
                stack.extend(unknown)
                continue
            stack.pop()
            self._report_faults(tree_id, node)
            self._sums[tree_id] = self._sum_node(node)
        sums = self._sums[root]
        if sums is not None and sums[1] > MAX_DEPTH:
            raise DamageError(f"its directories nest deeper than {MAX_DEPTH}")
        return sums

    def _sum_node(self, node: _Node) -> tuple[Totals, int] | None:
        files, directories, symlinks = node.files, len(node.children), node.symlinks
        size, depth = node.bytes, 0
        for child in node.children:
            below = self._sums[child]
            if below is None:
                return None
            files += below[0].files
            directories += below[0].directories
            symlinks += below[0].symlinks
            size += below[0].bytes
            depth = max(depth, below[1] + 1)
        return Totals(files, directories, symlinks, size), depth

    def _report_faults(self, tree_id: ObjectId, node: _Node) -> None:
        for name, why in node.faults:
            if name in self._sizes:
                self._breaks(meta_name(tree_id), f"it says of {name} that {why}")
            else:
                self._lacks(name, why)
        for child, size in zip(node.children, node.child_sizes, strict=True):
            found = self._nodes.get(child)
            if found is None:
                self._lacks(meta_name(child), "")
            elif found.size != size:
                self._breaks(
                    meta_name(tree_id),
                    f"it says that {meta_name(child)} has {size} bytes, it has {found.size}",
                )

    def _lacks(self, name: str, why: str) -> None:
        if object_id_of(name) in self._commits and name.endswith(META_SUFFIX):
            why = "a commit stands where a tree is needed"
        self._findings.setdefault(name, Finding(name, "missing", why or "it is not here"))

    def _breaks(self, name: str, why: str) -> None:
        self._findings.setdefault(name, Finding(name, "broken", why))

    def _check_refs(self) -> list[str]:
        problems = []
        for ref, head in _read_refs(self._repository):
            if isinstance(head, str):
                problems.append(head)
                continue
            name = meta_name(head)
            commit = self._commits.get(head)
            if name in self._findings or commit is None:
                self._lacks_commit(name, head)
                self._findings[name].refs.append(ref)
            elif commit.branch != _branch_of(ref):
                problems.append(f"{ref} points at {head.hex()}, a commit of {commit.branch}")
        return problems

    def _lacks_commit(self, name: str, head: ObjectId) -> None:
        what = "a tree stands where a commit is needed" if head in self._nodes else "it is not here"
        self._findings.setdefault(name, Finding(name, "missing", what))

    def _attribute(self) -> None:
        if not self._findings:
            return
        needs = _Needs(self._repository, self._nodes, self._commits, self._findings.keys())
        links = _linking_roots(self._repository, self._findings)
        for name, finding in self._findings.items():
            finding.builds = needs.builds_of(name)
            finding.roots = links.get(name, [])


class _Needs:
    """Which builds need an object: edges backwards, from the trees that name it up to commits."""

    def __init__(
        self,
        repository: Repository,
        nodes: dict[ObjectId, _Node],
        commits: dict[ObjectId, Commit],
        names: Iterable[str],
    ) -> None:
        self._commits = commits
        self._above: dict[ObjectId, list[ObjectId]] = {}
        for tree_id, node in nodes.items():
            for child in node.children:
                self._above.setdefault(child, []).append(tree_id)
        self._roots: dict[ObjectId, list[ObjectId]] = {}
        for commit_id, commit in commits.items():
            self._roots.setdefault(commit.root.id, []).append(commit_id)
        self._users = _trees_using(repository, nodes, frozenset(names))
        self._known: dict[ObjectId, frozenset[ObjectId]] = {}

    def builds_of(self, name: str) -> list[Build]:
        """The builds, ordered by branch and sequence."""
        found: set[ObjectId] = set()
        if name.endswith(META_SUFFIX):
            object_id = object_id_of(name)
            found.update(self._above_tree(object_id))
            if object_id in self._commits:
                found.add(object_id)
        for tree_id in self._users.get(name, ()):
            found |= self._above_tree(tree_id)
        return sorted((self._build(c) for c in found), key=lambda b: (b.branch, b.sequence))

    def _above_tree(self, tree: ObjectId) -> frozenset[ObjectId]:
        stack = [tree]
        while stack:
            tree_id = stack[-1]
            above = self._above.get(tree_id, ())
            unknown = [parent for parent in above if parent not in self._known]
            if unknown:
                stack.extend(unknown)
                continue
            stack.pop()
            below_commits = frozenset(self._roots.get(tree_id, ()))
            self._known[tree_id] = below_commits.union(*(self._known[p] for p in above))
        return self._known[tree]

    def _build(self, commit_id: ObjectId) -> Build:
        commit = self._commits[commit_id]
        return Build(commit.branch, commit.sequence, commit.version, commit_id.hex())


def _trees_using(
    repository: Repository, nodes: Iterable[ObjectId], names: frozenset[str]
) -> dict[str, list[ObjectId]]:
    """The trees that name each content object of `names`."""
    users: dict[str, list[ObjectId]] = {}
    if all(name.endswith(META_SUFFIX) for name in names):
        return users
    for tree_id in nodes:
        for entry in repository.load_tree(tree_id).entries:
            if isinstance(entry, FileEntry):
                name = content_name(repository.mode, entry)
                if name in names:
                    users.setdefault(name, []).append(tree_id)
    return users


def _linking_roots(repository: Repository, names: Iterable[str]) -> dict[str, list[str]]:
    """The roots with a hard link to each object file."""
    inodes: dict[tuple[int, int], str] = {}
    for name in names:
        try:
            status = os.lstat(f"{repository.objects}/{name}")
        except FileNotFoundError:
            continue
        if status.st_nlink > 1:
            inodes[(status.st_dev, status.st_ino)] = name
    base = repository.path / "roots"
    links: dict[str, list[str]] = {}
    for root in sorted(os.listdir(base)) if inodes and base.is_dir() else ():
        for key in _inodes_below(os.path.join(base, root)) & inodes.keys():
            links.setdefault(inodes[key], []).append(root)
    return links


def _inodes_below(root: str) -> set[tuple[int, int]]:
    found = set()
    for directory, _, names in os.walk(root):
        for name in names:
            status = os.lstat(os.path.join(directory, name))
            if status.st_nlink > 1:
                found.add((status.st_dev, status.st_ino))
    return found


def _verify_batch(
    repository: Repository, names: list[str]
) -> list[tuple[str, Verified | str | None]]:
    results: list[tuple[str, Verified | str | None]] = []
    for name in names:
        try:
            results.append((name, verify_object(repository, name)))
        except DamageError as error:
            results.append((name, str(error)))
    return results


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(names)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _size_fault(found: int | None, expected: int) -> str:
    return "" if found is None else f"it has {expected} bytes, it has {found}"


def _branch_of(ref: str) -> str:
    return ref.split("/", 2)[2] if ref.startswith("remotes/") else ref


def _read_refs(repository: Repository) -> Iterator[tuple[str, ObjectId | str]]:
    """Every ref with its head, or with what is wrong with its file."""
    base = repository.path / "refs"
    for directory, _, names in os.walk(base):
        for name in sorted(names):
            if name.endswith(TEMPORARY_SUFFIX):
                continue
            ref = os.path.relpath(os.path.join(directory, name), base)
            try:
                head = read_ref(repository, ref)
            except CorruptError as error:
                yield ref, error.message
                continue
            if head is not None:
                yield ref, head


def _free_name(repository: Repository, name: str) -> Path:
    target = _DAMAGED / name.replace("/", "")
    number = 0
    while (repository.path / target).exists():
        number += 1
        target = _DAMAGED / f"{name.replace('/', '')}.{number}"
    return target
