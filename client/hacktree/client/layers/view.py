"""What a layer sees of the root it is laid over: paths, link targets, contents.

A commit's tree is one (before anything is made), a directory on disk another (the root that a step
changes). Paths are bytes, relative, without a leading '/'; the root itself is b"".
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from hacktree.client.links import TooManyLinksError, follow_links
from hacktree.client.replay.xattrs import OPEN_DIRECTORY
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import user_mode
from hacktree.common.repository.repository import Repository


class File:
    """A regular file, or a device, socket or FIFO."""


class Directory:
    """A directory."""


class Link(msgspec.Struct, frozen=True):
    """A symbolic link."""

    target: bytes


Node = File | Directory | Link

FILE: Final = File()
DIRECTORY: Final = Directory()


class RootView(Protocol):
    """A root that can be looked at; no method follows symbolic links."""

    def find(self, path: bytes) -> Node | None:
        """What is at `path`, whose parents are directories; None if nothing is."""

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted; none if it is no directory."""

    def open(self, path: bytes) -> int | None:
        """A descriptor of a regular file for reading, which the caller closes; None for others."""

    def holds(self, path: bytes, entry: FileEntry) -> bool:
        """Whether the regular file at `path` has the content and mode of `entry`."""


class UnresolvableError(Exception):
    """A path leads through something that is no directory; `path` is where."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


def resolve(view: RootView, path: bytes, *, last: bool = False) -> bytes:
    """The path with symbolic links in its parents, with `last` in itself, replaced.

    Links are followed as in a chroot: '/' is the root, and '..' ends there. What does not exist
    stays as it is. Raises `UnresolvableError`.
    """

    def link_at(path: bytes, *, goes_on: bool) -> bytes | None:
        node = view.find(path)
        if isinstance(node, File) and goes_on:
            raise UnresolvableError(path)
        return node.target if isinstance(node, Link) else None

    try:
        return follow_links(path, link_at, last=last)
    except TooManyLinksError as error:
        raise UnresolvableError(path) from error


@contextmanager
def opened(view: RootView, path: bytes) -> Iterator[int | None]:
    """The file at `path`, open while the block lasts."""
    descriptor = view.open(path)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


class _Changed(msgspec.Struct):
    """A directory that was looked into, as it is by now."""

    children: dict[bytes, "_Changed | Entry"] = {}


class TreeView:
    """The tree of a commit, in a repository in a bare mode, and what was put on top of it since."""

    def __init__(self, repository: Repository, tree: ObjectId) -> None:
        self._repository = repository
        self._root = self._load(tree)

    def _load(self, tree: ObjectId) -> _Changed:
        entries = self._repository.load_tree(tree).entries
        return _Changed({entry.name: entry for entry in entries})

    def _directory(self, path: bytes) -> _Changed | None:
        directory = self._root
        for name in path.split(b"/") if path else ():
            child = directory.children.get(name)
            if isinstance(child, DirectoryEntry):
                child = directory.children[name] = self._load(child.id)
            if not isinstance(child, _Changed):
                return None
            directory = child
        return directory

    def _entry(self, path: bytes) -> "_Changed | Entry | None":
        parent, _, name = path.rpartition(b"/")
        directory = self._directory(parent)
        return directory.children.get(name) if directory is not None else None

    def find(self, path: bytes) -> Node | None:
        """As `RootView.find`."""
        if not path:
            return DIRECTORY
        entry = self._entry(path)
        if entry is None:
            return None
        if isinstance(entry, SymlinkEntry):
            return Link(entry.target)
        return FILE if isinstance(entry, FileEntry) else DIRECTORY

    def names(self, path: bytes) -> list[bytes]:
        """As `RootView.names`."""
        directory = self._directory(path)
        return sorted(directory.children) if directory is not None else []

    def open(self, path: bytes) -> int | None:
        """As `RootView.open`."""
        entry = self._entry(path)
        if not isinstance(entry, FileEntry):
            return None
        return os.open(self._repository.content_path(entry), os.O_RDONLY | os.O_CLOEXEC)

    def holds(self, path: bytes, entry: FileEntry) -> bool:
        """As `RootView.holds`."""
        found = self._entry(path)
        return isinstance(found, FileEntry) and found.id == entry.id and found.mode == entry.mode

    def remove(self, path: bytes) -> None:
        """As if the path, with what is below it, were not in the tree."""
        parent, _, name = path.rpartition(b"/")
        directory = self._directory(parent)
        if directory is not None:
            directory.children.pop(name, None)

    def put(self, path: bytes, entry: Entry) -> None:
        """As if the entry were at `path`, whose parent is a directory; a directory is empty."""
        parent, _, name = path.rpartition(b"/")
        directory = self._directory(parent)
        if directory is None:
            raise UnresolvableError(parent)
        new = _Changed() if isinstance(entry, DirectoryEntry) else entry
        directory.children[name] = new


class DiskView:
    """A root on disk that nobody else changes meanwhile."""

    def __init__(self, path: Path, repository: Repository) -> None:
        self._root = os.fsencode(path)
        self._repository = repository

    def where(self, path: bytes) -> bytes:
        """The path on this machine."""
        return self._root + b"/" + path

    def find(self, path: bytes) -> Node | None:
        """As `RootView.find`."""
        try:
            kind = os.lstat(self.where(path)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(kind):
            return Link(os.readlink(self.where(path)))
        return DIRECTORY if stat.S_ISDIR(kind) else FILE

    def names(self, path: bytes) -> list[bytes]:
        """As `RootView.names`."""
        try:
            # listdir(3) of a path would follow a link, and an absolute one leads to the host's.
            descriptor = os.open(self.where(path), OPEN_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            return sorted(map(os.fsencode, os.listdir(descriptor)))
        finally:
            os.close(descriptor)

    def open(self, path: bytes) -> int | None:
        """As `RootView.open`."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.where(path), flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                return None
            raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None

    def holds(self, path: bytes, entry: FileEntry) -> bool:
        """As `RootView.holds`."""
        status = os.lstat(self.where(path))
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return False
        if stat.S_IMODE(status.st_mode) != bits_on_disk(self._repository, entry):
            return False
        with open(self.where(path), "rb") as stream:
            return all(
                stream.read(len(chunk)) == chunk for chunk in self._repository.read_content(entry)
            )


def bits_on_disk(repository: Repository, entry: FileEntry) -> int:
    """The permission bits that the file of `entry` has in a root."""
    return entry.mode if repository.mode is Mode.BARE else user_mode(entry.mode)
