"""Two builds taken apart, and what is mixed from them: commits that no branch leads to."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

import msgspec

from hacktree.client.bisect.components.database import Database, Form, NoPackagesError
from hacktree.client.bisect.components.mixing import Mixer
from hacktree.client.bisect.components.planning import Plan, Sides, plan_components
from hacktree.client.bisect.components.reading import NEXT_HINT, read_database
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit, encode_commit
from hacktree.common.objects.diff import Change, diff_trees
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import display_path
from hacktree.common.objects.packages import METADATA_KEY, packages_to_metadata
from hacktree.common.objects.tree import FileEntry, Tree, decode_tree
from hacktree.common.objects.walk import LoadTree, check_totals, find_entry, measure
from hacktree.common.repository.content import FileAttributes, store_bytes
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import begin_transaction

MIXED_KEY: Final = "mixed-from"
"""In a commit's metadata: the ids of the good and the bad build."""


class NothingDiffersError(UserError):
    """Both builds hold the same files, at least of packages."""


class Ends(msgspec.Struct, frozen=True):
    """A good and a bad build, and the components in which they differ."""

    repository: Repository
    good: ObjectId
    bad: ObjectId
    commits: tuple[Commit, Commit]
    databases: tuple[Database, Database]
    plan: Plan
    mixer: Mixer
    trees: LoadTree

    @property
    def form(self) -> Form:
        """How both keep their databases, and so does a mixture."""
        return self.databases[0].form


class Composed(msgspec.Struct, frozen=True):
    """What is mixed. `tree` stands for it: that of the mixture, but that the database is still
    `joined` (`Form.join`), which is equal for equal packages, whatever writes the database. Of the
    ends themselves, which are not mixed, it is theirs, and `joined` is empty.
    """

    chosen: frozenset[int]
    tree: ObjectId
    joined: bytes = b""


def take_apart(repository: Repository, good: ObjectId, bad: ObjectId) -> Ends:
    """Compare two commits that are here. Raises `NothingDiffersError`, `NoPackagesError`."""
    commits = (repository.load_commit(good), repository.load_commit(bad))
    # Every mixture looks at most trees of both builds again.
    load = cache(repository.load_tree)
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
    form = before.form
    if form != after.form:
        raise NoPackagesError(
            f"{good.hex()[:12]} keeps its packages in /{display_path(form.path)}, "
            f"{bad.hex()[:12]} in /{display_path(after.form.path)}: they can't be mixed",
            hint=NEXT_HINT,
        )
    sides = Sides(before.packages, after.packages, form.info)
    plan = plan_components(sides, [change for change in changes if not form.covers(change.path)])
    if not plan.components:
        raise NothingDiffersError(
            f"{good.hex()[:12]} and {bad.hex()[:12]} differ in nothing but the package database"
        )
    mixer = Mixer(load, commits[0].root.id, changes)
    return Ends(repository, good, bad, commits, (before, after), plan, mixer, load)


def compose(ends: Ends, chosen: Iterable[int]) -> Composed:
    """The good build in which these components, which need no others, are the bad build's."""
    new = frozenset(chosen)
    everything = len(ends.plan.components)
    if len(new) in (0, everything):
        return Composed(new, ends.commits[1 if new else 0].root.id)
    joined = _join(ends, new)
    stands_in = _in_place(ends, {ends.form.path: joined})
    return Composed(new, ends.mixer.mix([*ends.plan.changes(new), *stands_in]).root, joined)


def store(ends: Ends, composed: Composed, keep: Callable[[ObjectId], None]) -> ObjectId:
    """The commit of a mixture, written to the repository unless it is one of the ends.

    No branch leads to it: `keep` is told its id before, and pins it. Raises what `Form.write`
    raises.
    """
    if not composed.joined:
        commit_id = ends.bad if composed.chosen else ends.good
        keep(commit_id)
        return commit_id
    contents = ends.form.write(composed.joined)
    database = _in_place(ends, contents)
    mixture = ends.mixer.mix([*ends.plan.changes(composed.chosen), *database])
    made = {tree_id: decode_tree(data) for tree_id, data in mixture.trees.items()}

    def load(tree_id: ObjectId) -> Tree:
        return made[tree_id] if tree_id in made else ends.trees(tree_id)

    good, bad = ends.commits
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
            METADATA_KEY: packages_to_metadata(ends.form.list_packages(composed.joined)),
            MIXED_KEY: [ends.good.hex(), ends.bad.hex()],
        },
    )
    encoded = encode_commit(commit)
    keep(hash_bytes(encoded))
    with begin_transaction(ends.repository) as transaction:
        for change in database:
            entry = change.new
            assert isinstance(entry, FileEntry)  # noqa: S101 - _in_place() made it
            attributes = FileAttributes(entry.mode, entry.uid, entry.gid, entry.xattrs)
            store_bytes(transaction, entry.name, contents[change.path], attributes)
        for data in mixture.trees.values():
            transaction.put_tree(data)
        commit_id = transaction.put_commit(encoded)
        transaction.publish()
    return commit_id


def _join(ends: Ends, new: frozenset[int]) -> bytes:
    """The database: of each package the part of the build that it is taken from."""
    names = {name for number in new for name in ends.plan.components[number].names}
    before, after = (database.packages.parts for database in ends.databases)
    parts = {name: part for name, part in before.items() if name not in names}
    parts |= {name: part for name, part in after.items() if name in names}
    return ends.form.join([part for _, part in sorted(parts.items())])


def _in_place(ends: Ends, contents: Mapping[bytes, bytes]) -> list[Change]:
    """Changes that put these files of the database into the good build, like what is there."""
    root = ends.commits[0].root.id
    main = find_entry(ends.trees, root, ends.form.path)
    assert isinstance(main, FileEntry)  # noqa: S101 - it was read
    changes = []
    for path, data in contents.items():
        old = find_entry(ends.trees, root, path)
        like = old if isinstance(old, FileEntry) else main
        name = path.rpartition(b"/")[2]
        new = msgspec.structs.replace(like, name=name, id=hash_bytes(data), size=len(data))
        changes.append(Change(path, old, new))
    return changes
