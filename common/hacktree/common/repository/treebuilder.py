"""Building trees from the bottom up out of what a directory or a tar stream holds."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import TypeAlias

import msgspec

from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.commit import RootDirectory, Totals
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import (
    DirectoryEntry,
    Entry,
    FileEntry,
    SymlinkEntry,
    Tree,
    encode_tree,
)
from hacktree.common.repository.transaction import Transaction


class BuildDirectory(msgspec.Struct):
    """A directory being gathered: its attributes and what it holds so far, by name."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    xattrs: Xattrs = ()
    children: dict[bytes, "BuildNode"] = {}


BuildNode: TypeAlias = "BuildDirectory | FileEntry | SymlinkEntry | Future[FileEntry]"
"""A future stands for a file whose content is still being hashed and stored."""


class StoredTree(msgspec.Struct, frozen=True):
    """A root directory whose trees are staged, and what it unfolds to."""

    root: RootDirectory
    totals: Totals


def store_trees(transaction: Transaction, root: BuildDirectory) -> StoredTree:
    """Stage the tree of `root` and of every directory below it."""
    counter = _Counter()
    tree_id, size = _store(transaction, root, counter)
    return StoredTree(
        RootDirectory(tree_id, size, root.mode, root.uid, root.gid, root.xattrs),
        Totals(counter.files, counter.directories, counter.symlinks, counter.bytes),
    )


class _Counter(msgspec.Struct):
    files: int = 0
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0


def _store(
    transaction: Transaction, directory: BuildDirectory, counter: _Counter
) -> tuple[ObjectId, int]:
    entries = tuple(_entries(transaction, directory, counter))
    data = encode_tree(Tree(1, entries))
    return transaction.put_tree(data), len(data)


def _entries(
    transaction: Transaction, directory: BuildDirectory, counter: _Counter
) -> Iterator[Entry]:
    for name, node in sorted(directory.children.items()):
        if isinstance(node, BuildDirectory):
            counter.directories += 1
            tree_id, size = _store(transaction, node, counter)
            yield DirectoryEntry(name, node.mode, node.uid, node.gid, node.xattrs, tree_id, size)
        elif isinstance(node, SymlinkEntry):
            counter.symlinks += 1
            yield node
        else:
            entry = node.result() if isinstance(node, Future) else node
            counter.files += 1
            counter.bytes += entry.size
            yield (entry if entry.name == name else msgspec.structs.replace(entry, name=name))
