"""The difference of two trees, in time proportional to what differs."""

from collections.abc import Iterator
from dataclasses import dataclass

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import (
    DirectoryEntry,
    Entry,
    FileEntry,
    SymlinkEntry,
    Tree,
)
from hacktree.common.objects.walk import MAX_DEPTH, LoadTree


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs: `old` is None when added, `new` is None when removed."""

    path: bytes
    old: Entry | None
    new: Entry | None

    @property
    def is_content(self) -> bool:
        """Whether kind, content or target differ, not only attributes."""
        old, new = self.old, self.new
        if isinstance(old, FileEntry) and isinstance(new, FileEntry):
            return old.id != new.id
        if isinstance(old, SymlinkEntry) and isinstance(new, SymlinkEntry):
            return old.target != new.target
        return not (isinstance(old, DirectoryEntry) and isinstance(new, DirectoryEntry))


_EMPTY = Tree(1, ())


def diff_trees(load: LoadTree, old: ObjectId | None, new: ObjectId | None) -> Iterator[Change]:
    """Yield every differing path in ascending order; None stands for an empty tree.

    A directory that only one side has is yielded with everything below it; one that both have is
    yielded only if its own attributes differ.
    """
    stack: list[tuple[bytes, Iterator[tuple[Entry | None, Entry | None]]]] = []

    def enter(prefix: bytes, old_id: ObjectId | None, new_id: ObjectId | None) -> None:
        if len(stack) > MAX_DEPTH:
            raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
        old_tree = _EMPTY if old_id is None else load(old_id)
        new_tree = _EMPTY if new_id is None else load(new_id)
        stack.append((prefix, _pair(old_tree, new_tree)))

    if old != new:
        enter(b"", old, new)
    while stack:
        prefix, pairs = stack[-1]
        for before, after in pairs:
            path = prefix + (before or after).name  # type: ignore[union-attr]
            if _own(before) != _own(after):
                yield Change(path, before, after)
            old_id = before.id if isinstance(before, DirectoryEntry) else None
            new_id = after.id if isinstance(after, DirectoryEntry) else None
            if old_id != new_id:
                enter(path + b"/", old_id, new_id)
                break
        else:
            stack.pop()


def _own(entry: Entry | None) -> object:
    """What an entry says of itself: for a directory, not what it holds."""
    if isinstance(entry, DirectoryEntry):
        return (entry.mode, entry.uid, entry.gid, entry.xattrs)
    return entry


def _pair(old: Tree, new: Tree) -> Iterator[tuple[Entry | None, Entry | None]]:
    before = {entry.name: entry for entry in old.entries}
    after = {entry.name: entry for entry in new.entries}
    for name in sorted(before.keys() | after.keys()):
        pair = before.get(name), after.get(name)
        if pair[0] != pair[1]:
            yield pair
