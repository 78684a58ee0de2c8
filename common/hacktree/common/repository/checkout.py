"""Checking a commit out: a directory whose files are the repository's own inodes, or copies.

Each directory is completed on its own: its subdirectories, files and links are made, then its own
attributes and mtime are set. So nothing that a directory hands down to what is created in it
(setgid, a default ACL) is in force yet when its children are made, and directories can be handled
in any order.
"""

import enum
import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import MAX_PATH_LENGTH
from hacktree.common.objects.tree import DirectoryEntry, FileEntry, SymlinkEntry, Tree
from hacktree.common.objects.walk import LoadTree, check_totals, describe_path, find_entry
from hacktree.common.repository.content import CHUNK, FILE_MTIME
from hacktree.common.repository.durable import write_all
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import content_name, user_mode
from hacktree.common.repository.repository import (
    ObjectCorruptError,
    ObjectMissingError,
    Repository,
)

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_LINK: Final = frozenset({errno.EMLINK, errno.EXDEV})
_CANNOT_CLONE: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
_INHERITED_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")


class LinkPolicy(enum.Enum):
    """Whether files may be the repository's own inodes, which nobody may then write to."""

    HARDLINK = "hardlink"
    COPY = "copy"


class CheckoutRefusedError(UserError):
    """The destination exists, or the path in the commit is no directory."""


@dataclass(slots=True)
class CheckoutReport:
    """What a checkout made. `copied` counts files with content that could not, or must not, be
    linked; empty files are made anew and counted in `empty`."""

    linked: int = 0
    copied: int = 0
    copied_bytes: int = 0
    empty: int = 0
    directories: int = 0
    symlinks: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, other: "CheckoutReport") -> None:
        """Count what another thread made."""
        with self._lock:
            self.linked += other.linked
            self.copied += other.copied
            self.copied_bytes += other.copied_bytes
            self.empty += other.empty
            self.directories += other.directories
            self.symlinks += other.symlinks


class _Directory(msgspec.Struct, frozen=True):
    """A directory that exists and is still to be filled; `path` is relative, empty for the top."""

    path: bytes
    tree: ObjectId
    mode: int
    uid: int
    gid: int
    xattrs: Xattrs


def check_out(
    repository: Repository,
    commit: Commit,
    destination: Path,
    *,
    subpath: bytes = b"",
    policy: LinkPolicy = LinkPolicy.HARDLINK,
) -> CheckoutReport:
    """Make the directory `destination`, which must not exist, out of a commit or of a part of it.

    The caller holds the repository lock, chooses a temporary name, syncs and renames. Owners and
    extended attributes are applied in bare mode, and by root in archive mode; else files have the
    modes of bare-user mode. Raises `ObjectMissingError` for content (or its variant) that is not
    here, `FormatError` for a tree that does not unfold to what the commit says.
    """
    trees: dict[ObjectId, Tree] = {}

    def load(tree_id: ObjectId) -> Tree:
        tree = trees.get(tree_id)
        if tree is None:
            tree = trees[tree_id] = repository.load_tree(tree_id)
        return tree

    check_totals(load, commit)
    top = _top_directory(load, commit, subpath)
    try:
        os.mkdir(destination, 0o700)
    except FileExistsError:
        raise CheckoutRefusedError(
            f"{destination} exists already", hint="Choose another place, or remove it."
        ) from None
    with _open(os.fsencode(destination)) as root, _open(os.fsencode(repository.objects)) as objects:
        for name in _INHERITED_ACLS:
            _drop_xattr(root, name)
        filler = _Filler(repository, trees, commit.time, root, objects, policy)
        if repository.mode is Mode.ARCHIVE:
            filler.fill_on_threads(top)
        else:
            filler.fill_all(top)
        return filler.report


def _top_directory(load: LoadTree, commit: Commit, subpath: bytes) -> _Directory:
    path = subpath.strip(b"/")
    root = commit.root
    if not path:
        return _Directory(b"", root.id, root.mode, root.uid, root.gid, root.xattrs)
    entry = find_entry(load, root.id, path)
    if not isinstance(entry, DirectoryEntry):
        what = "is not in the commit" if entry is None else "is not a directory"
        raise CheckoutRefusedError(
            f"{describe_path(path)} {what}",
            hint="`hacktree ls` lists directories, `hacktree cat` prints files.",
        )
    return _Directory(b"", entry.id, entry.mode, entry.uid, entry.gid, entry.xattrs)


class _Filler:
    """Fills directories below the descriptor `root` from the objects below `objects`."""

    def __init__(
        self,
        repository: Repository,
        trees: dict[ObjectId, Tree],
        time: int,
        root: int,
        objects: int,
        policy: LinkPolicy,
    ) -> None:
        self.report = CheckoutReport()
        self._repository = repository
        self._mode = repository.mode
        self._owned = self._mode is Mode.BARE or (self._mode is Mode.ARCHIVE and os.geteuid() == 0)
        self._trees = trees
        self._time = time
        self._root = root
        self._objects = objects
        self._linking = policy is LinkPolicy.HARDLINK and self._mode is not Mode.ARCHIVE

    def fill_all(self, top: _Directory) -> None:
        """Fill `top` and everything below it on this thread: linking is bound by the kernel."""
        stack = [top]
        while stack:
            stack += self.fill(stack.pop(), self.report)

    def fill_on_threads(self, top: _Directory) -> None:
        """Fill directories in parallel: decompressing and hashing release the interpreter lock."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            pending: set[Future[list[_Directory]]] = {pool.submit(self._fill_counted, top)}
            try:
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        below = future.result()
                        pending |= {pool.submit(self._fill_counted, entry) for entry in below}
            finally:
                for future in pending:
                    future.cancel()

    def _fill_counted(self, directory: _Directory) -> list[_Directory]:
        report = CheckoutReport()
        below = self.fill(directory, report)
        self.report.add(report)
        return below

    def fill(self, directory: _Directory, report: CheckoutReport) -> list[_Directory]:
        """Make everything in one directory, then set its attributes; returns its subdirectories."""
        prefix = directory.path + b"/" if directory.path else b""
        below: list[_Directory] = []
        mode, objects, link = self._mode, self._objects, os.link
        with _open(directory.path or b".", self._root) as descriptor:
            for entry in self._trees[directory.tree].entries:
                if isinstance(entry, FileEntry):
                    if entry.size and self._linking:
                        name = content_name(mode, entry)
                        try:
                            link(
                                name,
                                entry.name,
                                src_dir_fd=objects,
                                dst_dir_fd=descriptor,
                                follow_symlinks=False,
                            )
                        except OSError as error:
                            self._link_failed(error, entry, name, descriptor, report)
                        else:
                            report.linked += 1
                    else:
                        self._write_file(entry, descriptor, report)
                elif isinstance(entry, DirectoryEntry):
                    below.append(_subdirectory(prefix, entry))
                    os.mkdir(entry.name, 0o700, dir_fd=descriptor)
                else:
                    self._make_symlink(entry, descriptor)
                    report.symlinks += 1
            bits = directory.mode if self._owned else user_mode(directory.mode) | 0o100
            self._apply(descriptor, directory, bits, self._time)
        report.directories += 1
        return below

    def _link_failed(
        self,
        error: OSError,
        entry: FileEntry,
        name: str,
        descriptor: int,
        report: CheckoutReport,
    ) -> None:
        """Copy where the file system can't link; EMLINK concerns one inode, EXDEV all."""
        if error.errno == errno.ENOENT and not self._repository.has(name):
            raise ObjectMissingError("the content", entry.id) from None
        if error.errno not in _CANNOT_LINK:
            raise error
        if error.errno == errno.EXDEV:
            self._linking = False
        self._write_file(entry, descriptor, report)

    def _write_file(self, entry: FileEntry, directory: int, report: CheckoutReport) -> None:
        """A fresh inode: an empty file, a copy of a variant, or decompressed content."""
        descriptor = os.open(entry.name, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            if entry.size == 0:
                report.empty += 1
            else:
                if self._mode is Mode.ARCHIVE:
                    for chunk in self._repository.read_content(entry):
                        write_all(descriptor, chunk)
                else:
                    self._copy(entry, descriptor)
                report.copied += 1
                report.copied_bytes += entry.size
            bits = entry.mode if self._owned else user_mode(entry.mode)
            self._apply(descriptor, entry, bits, FILE_MTIME)
        finally:
            os.close(descriptor)

    def _copy(self, entry: FileEntry, descriptor: int) -> None:
        name = content_name(self._mode, entry)
        try:
            source = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._objects)
        except FileNotFoundError:
            raise ObjectMissingError("the content", entry.id) from None
        try:
            copied = _copy_content(source, descriptor, entry.size)
        finally:
            os.close(source)
        if copied != entry.size:
            path = self._repository.objects / name
            raise ObjectCorruptError(path, f"{copied} bytes instead of {entry.size}")

    def _make_symlink(self, entry: SymlinkEntry, directory: int) -> None:
        os.symlink(entry.target, entry.name, dir_fd=directory)
        if self._owned:
            os.chown(entry.name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        os.utime(entry.name, (FILE_MTIME, FILE_MTIME), dir_fd=directory, follow_symlinks=False)

    def _apply(
        self, descriptor: int, attributes: FileEntry | _Directory, bits: int, mtime: int
    ) -> None:
        """chown clears setuid and capabilities, so owner, then attributes, then mode."""
        if self._owned:
            os.chown(descriptor, attributes.uid, attributes.gid)
            for name, value in attributes.xattrs:
                os.setxattr(descriptor, name, value)
        os.chmod(descriptor, bits)
        os.utime(descriptor, (mtime, mtime))


def _subdirectory(prefix: bytes, entry: DirectoryEntry) -> _Directory:
    path = prefix + entry.name
    if len(path) > MAX_PATH_LENGTH:
        raise FormatError(f"a path in the tree exceeds {MAX_PATH_LENGTH} bytes")
    return _Directory(path, entry.id, entry.mode, entry.uid, entry.gid, entry.xattrs)


@contextmanager
def _open(path: bytes, directory: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _OPEN_DIRECTORY, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _drop_xattr(descriptor: int, name: str) -> None:
    """Remove what the new directory inherited from where it stands."""
    try:
        os.removexattr(descriptor, name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise


def _copy_content(source: int, destination: int, size: int) -> int:
    """Copy up to `size` bytes, sharing blocks where the file system can; returns how many."""
    copied = 0
    try:
        while copied < size:
            count = os.copy_file_range(source, destination, size - copied)
            if count == 0:
                return copied
            copied += count
    except OSError as error:
        if copied or error.errno not in _CANNOT_CLONE:
            raise
    while copied < size:
        chunk = os.read(source, min(CHUNK, size - copied))
        if not chunk:
            break
        write_all(destination, chunk)
        copied += len(chunk)
    return copied
