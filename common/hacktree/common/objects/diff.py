"""The difference of two trees, in time proportional to what differs."""

from collections.abc import Iterator
from typing import Final

import msgspec

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

CHANGE_NAMES: Final = {"A": "added", "D": "deleted", "M": "changed", "m": "attributes"}
"""What the letter of a change stands for, in JSON."""


class Change(msgspec.Struct, frozen=True):
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

    @property
    def letter(self) -> str:
        """A: added, D: deleted, M: content changed, m: only owner, mode or attributes changed."""
        if self.old is None:
            return "A"
        if self.new is None:
            return "D"
        return "M" if self.is_content else "m"


_EMPTY: Final = Tree(1, ())

_Pair = tuple[bytes, Entry | None, Entry | None]
"""A name, and what it names on either side."""


def diff_trees(load: LoadTree, old: ObjectId | None, new: ObjectId | None) -> Iterator[Change]:
    """Yield every differing path; None stands for an empty tree.

    Order is that of `walk_tree`: ascending by name within a directory, a directory before what it
    holds. A directory that only one side has is yielded with everything below it; one that both
    have is yielded only if its own attributes differ. Raises `FormatError` beyond `MAX_DEPTH`.
    """
    stack: list[tuple[bytes, Iterator[_Pair]]] = []

    def enter(prefix: bytes, old_id: ObjectId | None, new_id: ObjectId | None) -> None:
        if len(stack) > MAX_DEPTH:
            raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
        old_tree = _EMPTY if old_id is None else load(old_id)
        new_tree = _EMPTY if new_id is None else load(new_id)
        stack.append((prefix, _pair_entries(old_tree, new_tree)))

    if old != new:
        enter(b"", old, new)
    while stack:
        prefix, pairs = stack[-1]
        for name, before, after in pairs:
            path = prefix + name
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


def _pair_entries(old: Tree, new: Tree) -> Iterator[_Pair]:
    """The entries that differ, in ascending order of their names."""
    old_entries = {entry.name: entry for entry in old.entries}
    new_entries = {entry.name: entry for entry in new.entries}
    for name in sorted(old_entries.keys() | new_entries.keys()):
        before, after = old_entries.get(name), new_entries.get(name)
        if before != after:
            yield name, before, after
