"""Laying a layer over a root: planned on any view, done on a directory that nobody else changes."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from hacktree.client.layers.definition import LayerDefinition
from hacktree.client.layers.placing import (
    Conflict,
    Placement,
    compile_patterns,
    find_removed,
    place_layer,
)
from hacktree.client.layers.view import DiskView, RootView, TreeView, bits_on_disk
from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry
from hacktree.common.objects.walk import check_totals, walk_tree
from hacktree.common.repository.content import FILE_MTIME
from hacktree.common.repository.durable import write_all
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import user_mode
from hacktree.common.repository.repository import Repository

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_INHERITED: Final = ("system.posix_acl_access", "system.posix_acl_default")
_ABSENT: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


class Layer(msgspec.Struct, frozen=True):
    """A layer as it is laid: one version of its files, and what it may do to a root."""

    name: str
    commit: Commit
    definition: LayerDefinition


class Laid(msgspec.Struct):
    """What laying one layer did, or would do. `unmatched`: patterns of `remove` without a match."""

    placement: Placement
    removed: list[bytes] = []
    unmatched: list[str] = []


def layer_entries(repository: Repository, commit: Commit) -> Iterator[tuple[bytes, Entry]]:
    """The paths of a layer, directories first; raises `FormatError` for a tree that lies."""
    check_totals(repository.load_tree, commit)
    yield from walk_tree(repository.load_tree, commit.root.id)


def plan_layers(
    repository: Repository, tree: ObjectId, layers: Sequence[Layer], build: str
) -> tuple[dict[str, Laid], TreeView]:
    """What laying the layers over a commit's tree, called `build`, does, one after the other.

    Also the tree with all of them, as far as they don't conflict.
    """
    view = TreeView(repository, tree)
    owners: dict[bytes, str] = {}
    plans = {}
    for layer in layers:
        laid = plan_layer(
            view, repository, layer, lambda path: owners.get(path, build), view.remove
        )
        for path, directory in laid.placement.directories:
            view.put(path, directory)
        for path, entry in laid.placement.files:
            view.put(path, entry)
            owners[path] = f"layer {layer.name}"
        plans[layer.name] = laid
    return plans, view


def plan_layer(
    view: RootView,
    repository: Repository,
    layer: Layer,
    owner_of: Callable[[bytes], str],
    remove: Callable[[bytes], None],
) -> Laid:
    """Have `remove` take what the layer removes, then plan where its files go."""
    removed: list[bytes] = []
    unmatched = []
    for pattern in layer.definition.remove:
        found = find_removed(view, pattern)
        for path in found:
            remove(path)
        removed += found
        if not found:
            unmatched.append(pattern)
    replace = compile_patterns(layer.definition.replace)
    entries = layer_entries(repository, layer.commit)
    return Laid(place_layer(view, layer.name, entries, replace, owner_of), removed, unmatched)


def lay(view: DiskView, repository: Repository, layer: Layer) -> Laid:
    """Lay a layer over the root; does no more than its removals if there are conflicts.

    Files are copies, hashed on the way: the repository's inodes stay out of it. Raises `OSError`,
    `CorruptError`.
    """

    def remove(path: bytes) -> None:
        where = view.where(path)
        if os.path.isdir(where) and not os.path.islink(where):
            shutil.rmtree(where)
        else:
            os.unlink(where)

    laid = plan_layer(view, repository, layer, lambda path: "the root", remove)
    if laid.placement.conflicts:
        return laid
    for path in laid.placement.replaced:
        os.unlink(view.where(path))
    for path, _ in laid.placement.directories:
        os.mkdir(view.where(path), 0o700)
    for path, entry in laid.placement.files:
        if isinstance(entry, FileEntry):
            _write_file(view.where(path), repository, entry)
        else:
            _make_link(view.where(path), repository, entry)
    # What a directory hands down to new files comes into force after they were made.
    for path, directory in reversed(laid.placement.directories):
        _finish_directory(view.where(path), repository, directory, layer.commit.time)
    return laid


def _write_file(path: bytes, repository: Repository, entry: FileEntry) -> None:
    descriptor = os.open(path, _NEW_FILE, 0o600)
    try:
        for chunk in repository.read_content(entry):
            write_all(descriptor, chunk)
        bits = bits_on_disk(repository, entry)
        _set_attributes(descriptor, repository, entry, bits, FILE_MTIME)
    finally:
        os.close(descriptor)


def _finish_directory(
    path: bytes, repository: Repository, entry: DirectoryEntry, mtime: int
) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owned = repository.mode is Mode.BARE
        bits = entry.mode if owned else user_mode(entry.mode) | 0o100
        _set_attributes(descriptor, repository, entry, bits, mtime)
    finally:
        os.close(descriptor)


def _set_attributes(
    descriptor: int,
    repository: Repository,
    entry: FileEntry | DirectoryEntry,
    bits: int,
    mtime: int,
) -> None:
    """chown clears setuid and capabilities, so owner, then attributes, then mode."""
    for name in _INHERITED:
        _drop_xattr(descriptor, name)
    if repository.mode is Mode.BARE:
        os.chown(descriptor, entry.uid, entry.gid)
        _set_xattrs(descriptor, entry.xattrs)
    os.chmod(descriptor, bits)
    os.utime(descriptor, (mtime, mtime))


def _set_xattrs(descriptor: int, xattrs: Xattrs) -> None:
    for name, value in xattrs:
        os.setxattr(descriptor, name, value)


def _drop_xattr(descriptor: int, name: str) -> None:
    try:
        os.removexattr(descriptor, name)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _make_link(path: bytes, repository: Repository, entry: SymlinkEntry) -> None:
    os.symlink(entry.target, path)
    if repository.mode is Mode.BARE:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    os.utime(path, (FILE_MTIME, FILE_MTIME), follow_symlinks=False)


def conflicts_of(laid: dict[str, Laid]) -> list[Conflict]:
    """The conflicts of all layers, in the order of the layers."""
    return [conflict for one in laid.values() for conflict in one.placement.conflicts]
