"""Writing to the upper layer of a root's /etc, which nobody has mounted.

Everything is made whole in a place of its own first, then renamed into the layer. What it replaces
goes with that place; whoever needs it has kept a copy. No link is followed.
"""

import os
import stat
from pathlib import Path
from typing import Final

from hacktree.client.edits.edits import node_at, open_parent
from hacktree.client.edits.places import etc_place, kept_directory
from hacktree.client.edits.treecopy import OPEN_DIRECTORY, copy_attributes, copy_entry
from hacktree.client.removal import TEMPORARY_PREFIX, delete_below
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import UserError
from hacktree.common.repository.durable import sync_filesystem

_STAGING: Final = f"{TEMPORARY_PREFIX}restore"
"""In `.ht/kept`, where a recovery deletes it."""


class NoWayError(UserError):
    """Something that is no directory, or nothing, is where a directory has to be."""


class LayerWriter:
    """Puts what `source` holds, a copy of an upper layer, into that of `root`; paths begin with
    etc/. A context, at whose end everything is durable; the caller holds the sysroot lock and that
    of the layer's directory.
    """

    def __init__(self, sysroot: Sysroot, source: Path, root: str) -> None:
        self._source = source
        self._root = sysroot.roots / root
        self._upper = etc_place(sysroot, root).upper
        self._kept = kept_directory(sysroot)
        self._count = 0

    def __enter__(self) -> "LayerWriter":
        (self._kept / _STAGING).mkdir(mode=0o700)
        return self

    def __exit__(self, *error: object) -> None:
        upper = os.open(self._upper, OPEN_DIRECTORY)
        try:
            sync_filesystem(upper)
        finally:
            os.close(upper)
        delete_below(self._kept, _STAGING)

    def _new_place(self) -> Path:
        self._count += 1
        place = self._kept / _STAGING / str(self._count)
        place.mkdir(mode=0o700)
        return place

    def put(self, path: bytes) -> None:
        """Have at `path` what the source has: a file, a link, or a directory without what is in it.

        What is in a directory that is there stays. Raises `NoWayError`.
        """
        name = path.rpartition(b"/")[2]
        parent = self._open_parent(path)
        try:
            before = _mode(parent, name)
            staged = self._stage(self._source, path.partition(b"/")[2])
            is_directory = stat.S_ISDIR(staged.lstat().st_mode)
            if is_directory and stat.S_ISDIR(before):
                _copy_attributes_of(staged, parent, name)
                return
            if is_directory or stat.S_ISDIR(before):
                self._drop(parent, name)
            _sync_file(staged)
            os.rename(staged, name, dst_dir_fd=parent)
        finally:
            os.close(parent)

    def take_away(self, path: bytes) -> None:
        """Have nothing at `path`: what was written there goes, what the root has is hidden."""
        name = path.rpartition(b"/")[2]
        parent = self._open_parent(path)
        try:
            self._drop(parent, name)
            if node_at(self._root, path) is not None:
                whiteout = self._new_place() / "whiteout"
                os.mknod(whiteout, stat.S_IFCHR, os.makedev(0, 0))
                os.rename(whiteout, name, dst_dir_fd=parent)
        finally:
            os.close(parent)

    def _drop(self, parent: int, name: bytes) -> None:
        if _mode(parent, name):
            os.rename(name, os.fsencode(self._new_place() / "old"), src_dir_fd=parent)

    def _stage(self, top: Path, inside: bytes) -> Path:
        """A copy of what `top` has there, of a directory only itself."""
        name = os.fsdecode(inside.rpartition(b"/")[2])
        source = open_parent(top, inside)
        if source is None or not _mode(source, os.fsencode(name)):
            raise NoWayError(f"{top} has no {os.fsdecode(inside)}", hint="Run this again.")
        place = self._new_place()
        target = os.open(place, OPEN_DIRECTORY)
        try:
            if stat.S_ISDIR(_mode(source, os.fsencode(name))):
                os.mkdir(name, 0o700, dir_fd=target)
                _copy_attributes_of(top / os.fsdecode(inside), target, os.fsencode(name))
            else:
                copy_entry(source, target, name)
        finally:
            os.close(source)
            os.close(target)
        return place / name

    def _open_parent(self, path: bytes) -> int:
        """The directory of the layer that holds a path; made as the root has it, else the source.

        Raises `NoWayError`.
        """
        here = os.open(self._upper, OPEN_DIRECTORY)
        done = b"etc"
        for part in path.split(b"/")[1:-1]:
            done += b"/" + part
            try:
                if not _mode(here, part):
                    os.rename(self._stage_parent(done), part, dst_dir_fd=here)
                below = os.open(part, OPEN_DIRECTORY, dir_fd=here)
            except NotADirectoryError as error:
                raise NoWayError(f"/{os.fsdecode(done)} is no directory") from error
            finally:
                os.close(here)
            here = below
        return here

    def _stage_parent(self, path: bytes) -> Path:
        node = node_at(self._root, path)
        if node is not None and node.is_directory:
            return self._stage(self._root, path)
        return self._stage(self._source, path.partition(b"/")[2])


def _mode(parent: int, name: bytes) -> int:
    """What kind of thing is there; 0 if nothing is."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _sync_file(path: Path) -> None:
    """Else its name may survive a power cut without its content."""
    if path.is_file() and not path.is_symlink():
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _copy_attributes_of(source: Path, parent: int, name: bytes) -> None:
    """Those of a directory, for the directory `name`."""
    one, other = os.open(source, OPEN_DIRECTORY), os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    try:
        copy_attributes(one, other)
    finally:
        os.close(one)
        os.close(other)
