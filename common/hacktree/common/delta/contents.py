"""The canonical lists behind a pack's ordinals. docs/format.md, "Contents of a tree".

A pack names files and trees by their place in lists that both sides make from trees they have
verified, so its index needs no 32-byte ids. The lists come from one walk: depth first, a tree
before what it holds, entries ascending by name, each distinct tree once, where it appears first.
"""

from collections.abc import Iterator, Mapping, Set

import msgspec

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry
from hacktree.common.objects.walk import MAX_DEPTH, LoadTree


class Contents(msgspec.Struct, frozen=True):
    """What a tree reaches, in the order of the walk.

    `files`: id and size in bytes of each distinct content of at least one byte. `trees`: each
    distinct tree, the root first.
    """

    files: Mapping[ObjectId, int]
    trees: tuple[ObjectId, ...]


class TreeComparison(msgspec.Struct, frozen=True):
    """The lists that a pack from one tree to another refers to, all in the order of the walk.

    `bases`: contents of the old tree; a base ordinal is a place in it. `targets`: contents of the
    new tree that the old one lacks; a target ordinal is a place in it. `sizes`: bytes of each base
    and target. `metas`: trees that only the new tree reaches, its root first. `old_trees`: all
    trees that the old one reaches.
    """

    bases: tuple[ObjectId, ...]
    targets: tuple[ObjectId, ...]
    sizes: Mapping[ObjectId, int]
    metas: tuple[ObjectId, ...]
    old_trees: tuple[ObjectId, ...]


def contents(load: LoadTree, root: ObjectId) -> list[ObjectId]:
    """Ids of the files of at least one byte below `root`, in the order of the walk.

    Raises `FormatError` beyond `MAX_DEPTH` directories above one another.
    """
    return list(list_contents(load, root).files)


def list_contents(load: LoadTree, root: ObjectId) -> Contents:
    """What `root` reaches; each distinct tree is loaded once. Raises as `contents` does."""
    return _walk(load, root, frozenset(), {})


def compare_trees(load: LoadTree, old: ObjectId | None, new: ObjectId) -> TreeComparison:
    """The lists for a pack from `old` (None: from scratch) to `new`.

    Each distinct tree is loaded once. Raises `FormatError` beyond `MAX_DEPTH` and when the same
    content is said to have two sizes.
    """
    before = Contents({}, ()) if old is None else list_contents(load, old)
    return compare_contents(load, before, new)


def compare_contents(load: LoadTree, before: Contents, new: ObjectId) -> TreeComparison:
    """As `compare_trees`, for an old tree that was listed already; loads only what is new."""
    # A tree that the old side reaches holds neither targets nor new metas: its walk is spared.
    after = _walk(load, new, frozenset(before.trees), before.files)
    return TreeComparison(
        bases=tuple(before.files),
        targets=tuple(after.files),
        sizes={**before.files, **after.files},
        metas=after.trees,
        old_trees=before.trees,
    )


def _walk(
    load: LoadTree, root: ObjectId, skipped: Set[ObjectId], known: Mapping[ObjectId, int]
) -> Contents:
    """What `root` reaches without entering `skipped` trees and without `known` files, whose sizes
    are compared. One loop without calls: every pull by a pack waits for it.
    """
    files: dict[ObjectId, int] = {}
    trees: dict[ObjectId, None] = {}
    stack: list[Iterator[Entry]] = []
    if root not in skipped:
        trees[root] = None
        stack.append(iter(load(root).entries))
    while stack:
        for entry in stack[-1]:
            if isinstance(entry, FileEntry):
                size = entry.size
                if not size:
                    continue
                first = known.get(entry.id) or files.setdefault(entry.id, size)
                if first != size:
                    raise FormatError(f"content {entry.id.hex()} has {first} and {size} bytes")
            elif (
                isinstance(entry, DirectoryEntry)
                and entry.id not in trees
                and entry.id not in skipped
            ):
                if len(stack) > MAX_DEPTH:
                    raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
                trees[entry.id] = None
                stack.append(iter(load(entry.id).entries))
                break
        else:
            stack.pop()
    return Contents(files, tuple(trees))
