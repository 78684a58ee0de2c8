"""What was written in /etc of a root, against what its commit and its replay produced.

Read from the overlay's upper layer: a character device 0:0 stands for a deletion, an opaque
directory for one that hides what was below it; everything else is there as it now is. What was
copied up and is as before is no edit. Kernel documentation: filesystems/overlayfs.
"""

import enum
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.edits.places import etc_place
from hacktree.client.edits.treecopy import OPEN_DIRECTORY, is_private_xattr
from hacktree.client.sysroot import Sysroot

_CHUNK: Final = 1 << 20
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class EditKind(enum.Enum):
    """What happened to a path."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"

    @property
    def letter(self) -> str:
        """As `hacktree diff` has it."""
        return {"added": "A", "changed": "M", "removed": "D"}[self.value]


class Node(msgspec.Struct, frozen=True):
    """What is at a path. `content` is the sha256 of a file's bytes, or a link's target.

    The size of a directory means nothing and is 0.
    """

    mode: int
    uid: int
    gid: int
    size: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link, whose `content` is where it leads."""
        return stat.S_ISLNK(self.mode)


class Edit(msgspec.Struct, frozen=True):
    """One path, relative to the root (b"etc/hosts"), as it was (`old`) and as it is (`new`)."""

    path: bytes
    kind: EditKind
    old: Node | None
    new: Node | None


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry of an upper layer says that the name was deleted."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def root_edits(sysroot: Sysroot, root: str) -> list[Edit]:
    """What was written in /etc of `root`, sorted by path."""
    place = etc_place(sysroot, root)
    if not place.upper.is_dir():
        return []
    return find_edits(place.upper, sysroot.roots / root / "etc")


def find_edits(upper: Path, lower: Path | None) -> list[Edit]:
    """The edits that an upper layer of /etc holds; without `lower` all that it holds."""
    above = os.open(upper, OPEN_DIRECTORY)
    try:
        below = _open_directory(lower) if lower is not None else None
        try:
            found = list(_compare(above, below, b"etc"))
        finally:
            if below is not None:
                os.close(below)
    finally:
        os.close(above)
    return sorted(found, key=lambda edit: edit.path)


def node_at(root: Path, path: bytes) -> Node | None:
    """What `path` (relative) of a directory is, following no link; None if nothing is there."""
    parent = open_parent(root, path)
    if parent is None:
        return None
    try:
        return _node(parent, path.rpartition(b"/")[2])
    finally:
        os.close(parent)


def open_parent(root: Path, path: bytes) -> int | None:
    """The directory that holds `path` (relative) below `root`; None if a part of it is none."""
    here = os.open(root, OPEN_DIRECTORY)
    for part in path.split(b"/")[:-1]:
        below = _open_directory(part, here)
        os.close(here)
        if below is None:
            return None
        here = below
    return here


def _open_directory(path: Path | bytes, parent: int | None = None) -> int | None:
    try:
        return os.open(path, OPEN_DIRECTORY, dir_fd=parent)
    except OSError as error:
        # ELOOP, where the kernel says so: a link is no directory.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _compare(above: int, below: int | None, path: bytes) -> Iterator[Edit]:
    """Edits below a directory of the upper layer and the one it lies over, if any."""
    for name in _names(above):
        try:
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            # Somebody is at work in the root.
            continue
        here = path + b"/" + name
        old = _node(below, name) if below is not None else None
        if is_whiteout(status):
            if old is not None or below is None:
                yield Edit(here, EditKind.REMOVED, old, None)
                yield from _all_removed(below, name, here)
            continue
        new = _node(above, name)
        if new is None:
            continue
        if old is None:
            yield Edit(here, EditKind.ADDED, None, new)
        elif old != new:
            yield Edit(here, EditKind.CHANGED, old, new)
        if new.is_directory:
            yield from _compare_directories(above, below, name, here)
        elif old is not None and old.is_directory:
            yield from _all_removed(below, name, here)


def _compare_directories(above: int, below: int | None, name: bytes, path: bytes) -> Iterator[Edit]:
    upper = _open_directory(name, above)
    if upper is None:
        return
    lower = _open_directory(name, below) if below is not None else None
    try:
        if lower is not None and _is_opaque(upper):
            hidden = set(_names(lower)) - set(_names(upper))
            for child in sorted(hidden):
                yield Edit(path + b"/" + child, EditKind.REMOVED, _node(lower, child), None)
                yield from _all_removed(lower, child, path + b"/" + child)
        yield from _compare(upper, lower, path)
    finally:
        os.close(upper)
        if lower is not None:
            os.close(lower)


def _all_removed(parent: int | None, name: bytes, path: bytes) -> Iterator[Edit]:
    """An edit for everything below a directory that is gone."""
    directory = _open_directory(name, parent) if parent is not None else None
    if directory is None:
        return
    try:
        for child in _names(directory):
            here = path + b"/" + child
            yield Edit(here, EditKind.REMOVED, _node(directory, child), None)
            yield from _all_removed(directory, child, here)
    finally:
        os.close(directory)


def _names(directory: int) -> list[bytes]:
    return sorted(os.fsencode(name) for name in os.listdir(directory))


def _is_opaque(directory: int) -> bool:
    return any(name in _OPAQUE for name in os.listxattr(directory))


def _node(parent: int, name: bytes) -> Node | None:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        content, xattrs = _content(parent, name, status)
    except FileNotFoundError:
        # Somebody is at work in the root.
        return None
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return Node(status.st_mode, status.st_uid, status.st_gid, size, content, xattrs)


def _content(
    parent: int, name: bytes, status: os.stat_result
) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=parent), ()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return b"", ()
    descriptor = os.open(name, _READ, dir_fd=parent)
    try:
        xattrs = tuple(
            (key, os.getxattr(descriptor, key))
            for key in sorted(os.listxattr(descriptor))
            if not is_private_xattr(key)
        )
        if stat.S_ISDIR(status.st_mode):
            return b"", xattrs
        digest = hashlib.sha256()
        while data := os.read(descriptor, _CHUNK):
            digest.update(data)
        return digest.digest(), xattrs
    finally:
        os.close(descriptor)
