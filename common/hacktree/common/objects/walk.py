"""Walking a tree object by object: bounded in depth, path length and entries.

Trees are a graph: the same subtree may stand in many places, so that 40 small hostile trees can
unfold into 2**40 paths. `measure` counts what a tree unfolds to without unfolding it; everything
that does unfold one compares the count with the commit's totals first.
"""

from collections.abc import Callable, Iterator
from typing import Final

from hacktree.common.objects.commit import MAX_ENTRIES, Commit, Totals
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import MAX_PATH_LENGTH, display_path
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, Tree

MAX_DEPTH: Final = 256
"""Directories above one another."""

LoadTree = Callable[[ObjectId], Tree]
"""Gives the tree with this id; raises its own error when it is missing or damaged."""


def walk_tree(load: LoadTree, root: ObjectId) -> Iterator[tuple[bytes, Entry]]:
    """Yield (path, entry) for everything below `root`, a directory before what it holds.

    Paths are relative, joined by '/'. Order is ascending by name within a directory. Raises
    `FormatError` beyond the limits.
    """
    stack: list[tuple[bytes, Iterator[Entry]]] = [(b"", iter(load(root).entries))]
    while stack:
        prefix, entries = stack[-1]
        for entry in entries:
            path = prefix + entry.name
            if len(path) > MAX_PATH_LENGTH:
                raise FormatError(f"a path in the tree exceeds {MAX_PATH_LENGTH} bytes")
            yield path, entry
            if isinstance(entry, DirectoryEntry):
                if len(stack) >= MAX_DEPTH:
                    raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
                stack.append((path + b"/", iter(load(entry.id).entries)))
                break
        else:
            stack.pop()


def measure(load: LoadTree, root: ObjectId) -> Totals:
    """What the tree unfolds to, in time linear in its distinct objects.

    Raises `FormatError` when it nests deeper than `MAX_DEPTH` or exceeds `MAX_ENTRIES`.
    """
    known: dict[ObjectId, tuple[Totals, int]] = {}
    stack = [(root, load(root), 0)]
    while stack:
        tree_id, tree, depth = stack[-1]
        if depth > MAX_DEPTH:
            raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
        below = {e.id for e in tree.entries if isinstance(e, DirectoryEntry)}
        missing = below - known.keys()
        # Ids are hashes of content, so no tree can hold itself and every descent ends.
        if missing:
            stack.extend((child, load(child), depth + 1) for child in missing)
            continue
        stack.pop()
        if tree_id not in known:
            known[tree_id] = _sum_entries(tree, known)
    return known[root][0]


def _sum_entries(tree: Tree, known: dict[ObjectId, tuple[Totals, int]]) -> tuple[Totals, int]:
    files = directories = symlinks = size = depth = 0
    for entry in tree.entries:
        if isinstance(entry, FileEntry):
            files += 1
            size += entry.size
        elif isinstance(entry, DirectoryEntry):
            below, below_depth = known[entry.id]
            files += below.files
            directories += below.directories + 1
            symlinks += below.symlinks
            size += below.bytes
            depth = max(depth, below_depth + 1)
        else:
            symlinks += 1
    if depth > MAX_DEPTH:
        raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
    if max(files, directories, symlinks) > MAX_ENTRIES:
        raise FormatError(f"the tree unfolds to more than {MAX_ENTRIES} entries")
    return Totals(files, directories, symlinks, size), depth


def check_totals(load: LoadTree, commit: Commit) -> None:
    """Refuse a commit whose tree does not unfold to exactly what the commit says."""
    totals = measure(load, commit.root.id)
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
