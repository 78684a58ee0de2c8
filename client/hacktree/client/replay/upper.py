"""What a step wrote: an upper layer, once nothing is mounted over it any more.

A deleted name is a character device 0:0; a directory that hides the one below it is `opaque`.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.replay.xattrs import is_overlay, overlay_xattr, read_xattrs
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.walk import MAX_DEPTH

_REFUSED: Final = ("redirect", "metacopy", "whiteout", "whiteouts")
"""Entries with these are no files but references to others: the overlay is mounted without them."""


class UpperRefusedError(HacktreeError):
    """The layer holds what no root can hold."""


class Node(msgspec.Struct, frozen=True):
    """Something in a layer; `path` is relative. An opaque directory hides what is below it."""

    path: str
    status: os.stat_result
    opaque: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_whiteout(self) -> bool:
        """Whether it stands for a name that was deleted."""
        return is_whiteout(self.status)


def walk_upper(upper: Path) -> Iterator[Node]:
    """Everything in a layer, sorted by name, a directory before what it holds."""
    yield from _walk(os.fspath(upper), "", 0)


def _walk(directory: str, prefix: str, depth: int) -> Iterator[Node]:
    if depth > MAX_DEPTH:
        raise UpperRefusedError(f"{prefix}: directories nest deeper than {MAX_DEPTH}")
    with os.scandir(directory) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        path = prefix + entry.name
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield Node(path, status, is_opaque(entry.path))
            yield from _walk(entry.path, f"{path}/", depth + 1)
        else:
            yield Node(path, status)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a layer has this in place of a name that was deleted."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: str | int) -> bool:
    """Whether the directory hides what lower layers have in its place."""
    return overlay_xattr(read_xattrs(directory), "opaque") is not None


def seal(upper: Path) -> list[str]:
    """Make a written layer one that can be kept; returns the sockets that were left out.

    Files lose what the overlay noted on them, since roots link to them. A socket is nothing without
    its process. Raises `UpperRefusedError`.
    """
    sockets = []
    for node in walk_upper(upper):
        place = upper / node.path
        found = read_xattrs(place)
        for name in found:
            if is_overlay(name):
                _drop_note(place, name, node)
        if stat.S_ISSOCK(node.status.st_mode):
            os.unlink(place)
            # A lower layer may have something by that name, which the socket replaced.
            os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))
            sockets.append(node.path)
    return sockets


def _drop_note(place: Path, name: str, node: Node) -> None:
    short = name.split(".", 2)[2]
    if short in _REFUSED or short.startswith("overlay."):
        raise UpperRefusedError(
            f"{node.path} carries {name}, which can't become part of a root",
            hint="The step used an overlay of its own: let it write plain files.",
        )
    if not (node.is_directory and short == "opaque"):
        os.removexattr(place, name, follow_symlinks=False)


def stamp(upper: Path) -> bytes:
    """A digest of names, attributes, extended ones too, and mtimes: it changes if anybody writes to
    the layer.
    """
    digest = hashlib.sha256()
    for node in walk_upper(upper):
        status = node.status
        size = 0 if node.is_directory else status.st_size
        fields = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, size)
        digest.update(os.fsencode(node.path) + b"\0")
        # Writing one changes no time but the ctime, which every link of a root changes too.
        xattrs = sorted(read_xattrs(upper / node.path).items())
        digest.update(repr((*fields, status.st_mtime_ns, xattrs)).encode())
    return digest.digest()


def written_paths(upper: Path) -> Iterator[str]:
    """The paths that a step wrote or deleted; directories only where they replace what was there.

    Other directories may be in the layer only for what they hold.
    """
    for node in walk_upper(upper):
        if not node.is_directory or node.opaque:
            yield node.path
