"""Two builds taken apart, and what is mixed from them: commits that no branch leads to."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from hacktree.client.bisect.components.mixing import Mixer, Mixture
from hacktree.client.bisect.components.planning import Plan, Sides, plan_components
from hacktree.client.bisect.components.reading import (
    Database,
    NoPackagesError,
    read_database,
)
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit, encode_commit
from hacktree.common.objects.diff import Change, diff_trees
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.packages import (
    METADATA_KEY,
    packages_to_metadata,
    parse_dpkg_status,
)
from hacktree.common.objects.tree import FileEntry, Tree, decode_tree
from hacktree.common.objects.walk import check_totals, find_entry, measure
from hacktree.common.repository.content import FileAttributes, store_bytes
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import begin_transaction

MIXED_KEY: Final = "mixed-from"
"""In a commit's metadata: the ids of the good and the bad build."""


class NothingDiffersError(UserError):
    """Both builds hold the same files."""


@dataclass(frozen=True, slots=True)
class Ends:
    """A good and a bad build, and the components in which they differ."""

    repository: Repository
    good: ObjectId
    bad: ObjectId
    commits: tuple[Commit, Commit]
    databases: tuple[Database, Database]
    plan: Plan
    mixer: Mixer
    trees: "TreeCache"


@dataclass(frozen=True, slots=True)
class Composed:
    """A mixture: `status` is what its dpkg says; empty for either of the ends themselves."""

    chosen: frozenset[int]
    tree: ObjectId
    mixture: Mixture | None = None
    status: bytes = b""


class TreeCache:
    """Trees of both builds, read once: every mixture looks at most of them again."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._trees: dict[ObjectId, Tree] = {}

    def __call__(self, tree_id: ObjectId) -> Tree:
        """The tree; raises what `Repository.load_tree` raises."""
        tree = self._trees.get(tree_id)
        if tree is None:
            tree = self._trees[tree_id] = self._repository.load_tree(tree_id)
        return tree


def take_apart(repository: Repository, good: ObjectId, bad: ObjectId) -> Ends:
    """Compare two commits that are here. Raises `NothingDiffersError`, `NoPackagesError`."""
    commits = (repository.load_commit(good), repository.load_commit(bad))
    load = TreeCache(repository)
    for commit in commits:
        check_totals(load, commit)
    changes = list(diff_trees(load, commits[0].root.id, commits[1].root.id))
    if not changes:
        raise NothingDiffersError(
            f"{good.hex()[:12]} and {bad.hex()[:12]} hold the same files",
            hint="Name a build that works and one that doesn't.",
        )
    before, after = (
        read_database(TreeView(repository, commit), commit_id.hex()[:12])
        for commit, commit_id in zip(commits, (good, bad), strict=True)
    )
    if before.info != after.info or before.status != after.status:
        raise NoPackagesError("the two builds keep dpkg's database in different places")
    database = frozenset({before.status})
    plan = plan_components(Sides(before.packages, after.packages, before.info, database), changes)
    mixer = Mixer(load, commits[0].root.id, changes)
    return Ends(repository, good, bad, commits, (before, after), plan, mixer, load)


def compose(ends: Ends, chosen: Iterable[int]) -> Composed:
    """The good build in which these components, which need no others, are the bad build's."""
    new = frozenset(chosen)
    everything = len(ends.plan.components)
    if len(new) in (0, everything):
        return Composed(new, ends.commits[1 if new else 0].root.id)
    status = _status(ends, new)
    path = ends.databases[0].status
    old = find_entry(ends.trees, ends.commits[0].root.id, path)
    assert isinstance(old, FileEntry)  # noqa: S101 - it was read
    entry = msgspec.structs.replace(old, id=hash_bytes(status), size=len(status))
    mixture = ends.mixer.mix([*ends.plan.changes(new), Change(path, old, entry)])
    return Composed(new, mixture.root, mixture, status)


def store(ends: Ends, composed: Composed, keep: Callable[[ObjectId], None]) -> ObjectId:
    """The commit of a mixture, written to the repository unless it is one of the ends.

    No branch leads to it: `keep` is told its id before, and pins it. Equal mixtures are equal
    commits.
    """
    mixture = composed.mixture
    if mixture is None:
        commit_id = ends.bad if composed.chosen else ends.good
        keep(commit_id)
        return commit_id
    made = {tree_id: decode_tree(data) for tree_id, data in mixture.trees.items()}

    def load(tree_id: ObjectId) -> Tree:
        return made[tree_id] if tree_id in made else ends.trees(tree_id)

    good, bad = ends.commits
    entry = find_entry(load, mixture.root, ends.databases[0].status)
    assert isinstance(entry, FileEntry)  # noqa: S101 - compose() put it there
    commit = Commit(
        format=1,
        root=msgspec.structs.replace(good.root, id=mixture.root, size=mixture.size),
        parents=(),
        sequence=1,
        branch=bad.branch,
        architecture=bad.architecture,
        time=bad.time,
        version=f"{len(composed.chosen)} of {len(ends.plan.components)} mixed"[:1000],
        subject=f"Mixed from {ends.good.hex()[:12]} and {ends.bad.hex()[:12]}",
        body="",
        totals=measure(load, mixture.root),
        metadata={
            METADATA_KEY: packages_to_metadata(parse_dpkg_status(composed.status)),
            MIXED_KEY: [ends.good.hex(), ends.bad.hex()],
        },
    )
    encoded = encode_commit(commit)
    keep(hash_bytes(encoded))
    with begin_transaction(ends.repository) as transaction:
        attributes = FileAttributes(entry.mode, entry.uid, entry.gid, entry.xattrs)
        store_bytes(transaction, entry.name, composed.status, attributes)
        for data in mixture.trees.values():
            transaction.put_tree(data)
        commit_id = transaction.put_commit(encoded)
        transaction.publish()
    return commit_id


def _status(ends: Ends, new: frozenset[int]) -> bytes:
    """dpkg's status: of each package the stanza of the build that it is taken from."""
    names = {name for number in new for name in ends.plan.components[number].names}
    before, after = (database.packages.stanzas for database in ends.databases)
    stanzas = {name: stanza for name, stanza in before.items() if name not in names}
    stanzas |= {name: stanza for name, stanza in after.items() if name in names}
    return b"\n\n".join(stanza for _, stanza in sorted(stanzas.items())) + b"\n\n"
