"""Walking a tree object by object: bounded in depth, path length and entries.

Trees are a graph: the same subtree may stand in many places, so that 40 small hostile trees can
unfold into 2**40 paths. `measure` counts what a tree unfolds to without unfolding it; everything
that does unfold one compares the count with the commit's totals first.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from hacktree.common.objects.commit import MAX_ENTRIES, Commit, Totals
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import MAX_PATH_LENGTH, display_path
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, Tree

MAX_DEPTH: Final = 256
"""Directories above one another, not counting the root: names in the path of a directory."""

LoadTree = Callable[[ObjectId], Tree]
"""Gives the tree with this id; raises its own error when it is missing or damaged."""


def walk_tree(load: LoadTree, root: ObjectId) -> Iterator[tuple[bytes, Entry]]:
    """Yield (path, entry) for everything below `root`, a directory before what it holds.

    Paths are relative, joined by '/'. Order is ascending by name within a directory. Raises
    `FormatError` beyond `MAX_DEPTH` and `MAX_PATH_LENGTH`, as `measure` does for the same trees.
    """
    stack: list[tuple[bytes, Iterator[Entry]]] = [(b"", iter(load(root).entries))]
    while stack:
        prefix, entries = stack[-1]
        for entry in entries:
            path = prefix + entry.name
            _check_path_length(len(path))
            if isinstance(entry, DirectoryEntry):
                _check_depth(len(stack))
                yield path, entry
                stack.append((path + b"/", iter(load(entry.id).entries)))
                break
            yield path, entry
        else:
            stack.pop()


class Extent(msgspec.Struct, frozen=True):
    """How far one tree reaches: what it unfolds to, directories above one another below it, and
    the bytes of its longest path.
    """

    totals: Totals
    depth: int
    path_length: int


def measure(load: LoadTree, root: ObjectId, known: dict[ObjectId, Extent] | None = None) -> Totals:
    """What the tree unfolds to, in time linear in its distinct objects: each is loaded once.

    `known`: what was measured before, which is not loaded again; what is measured is added.
    Raises `FormatError` beyond `MAX_DEPTH`, `MAX_PATH_LENGTH` or `MAX_ENTRIES`.
    """
    known = {} if known is None else known
    first = load(root)
    stack = [(root, first, iter(first.entries))]
    while stack:
        tree_id, tree, entries = stack[-1]
        for entry in entries:
            if isinstance(entry, DirectoryEntry) and entry.id not in known:
                _check_depth(len(stack))
                below = load(entry.id)
                stack.append((entry.id, below, iter(below.entries)))
                break
        else:
            known[tree_id] = _sum_entries(tree, known)
            stack.pop()
    return known[root].totals


def _sum_entries(tree: Tree, known: dict[ObjectId, Extent]) -> Extent:
    files = directories = symlinks = size = depth = path_length = 0
    for entry in tree.entries:
        length = len(entry.name)
        if isinstance(entry, FileEntry):
            files += 1
            size += entry.size
        elif isinstance(entry, DirectoryEntry):
            below = known[entry.id]
            files += below.totals.files
            directories += below.totals.directories + 1
            symlinks += below.totals.symlinks
            size += below.totals.bytes
            depth = max(depth, below.depth + 1)
            if below.path_length:
                length += 1 + below.path_length
        else:
            symlinks += 1
        if length > path_length:
            path_length = length
    _check_depth(depth)
    _check_path_length(path_length)
    totals = Totals(files, directories, symlinks, size)
    if totals.entries > MAX_ENTRIES:
        raise FormatError(f"the tree unfolds to more than {MAX_ENTRIES} entries")
    return Extent(totals, depth, path_length)


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise FormatError(f"directories nest deeper than {MAX_DEPTH}")


def _check_path_length(length: int) -> None:
    if length > MAX_PATH_LENGTH:
        raise FormatError(f"a path in the tree exceeds {MAX_PATH_LENGTH} bytes")


def check_totals(
    load: LoadTree, commit: Commit, known: dict[ObjectId, Extent] | None = None
) -> None:
    """Refuse a commit whose tree does not unfold to exactly what the commit says.

    `known`: as for `measure`.
    """
    totals = measure(load, commit.root.id, known)
    if totals != commit.totals:
        raise FormatError(f"the tree unfolds to {totals}, the commit says {commit.totals}")


def find_entry(load: LoadTree, root: ObjectId, path: bytes) -> Entry | None:
    """The entry at `path` (relative, no leading '/'), or None. Symbolic links aren't followed."""
    entry: Entry | None = None
    tree_id: ObjectId | None = root
    for name in path.split(b"/"):
        if tree_id is None:
            return None
        entry = next((e for e in load(tree_id).entries if e.name == name), None)
        if entry is None:
            return None
        tree_id = entry.id if isinstance(entry, DirectoryEntry) else None
    return entry


def describe_path(path: bytes) -> str:
    """An absolute path for messages."""
    return "/" + display_path(path)
