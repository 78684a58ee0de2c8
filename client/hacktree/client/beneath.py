"""Files beneath a root: no symbolic link is followed out of it, and no inode is written to.

Looking up follows links, inside the root, as a program that is chrooted there would: safe as long
as nobody else changes the root. Opening follows none.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.links import TooManyLinksError, follow_links
from hacktree.client.replay.step import StepFailedError
from hacktree.common.repository.durable import write_all

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

ReadLink = Callable[[str], str | None]
"""The target of the symbolic link at a path relative to a root; "" if that is no link, None if
there is nothing."""


class Attributes(msgspec.Struct, frozen=True):
    """Of a new file; `owner` None leaves it to the system, where nobody may give files away."""

    mode: int
    owner: tuple[int, int] | None = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()


@contextmanager
def open_directory(root: Path, path: str, enter: "Enter | None" = None) -> Iterator[int]:
    """A descriptor of a directory of the root.

    Raises `FileNotFoundError`, unless `enter` makes what is missing, and `StepFailedError` where
    something else, or a symbolic link, is in the way.
    """
    descriptor = os.open(root, _OPEN_DIRECTORY)
    try:
        for part in path.split("/"):
            if not part:
                continue
            try:
                below = (enter or _enter)(descriptor, part)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise StepFailedError(
                    f"/{path.strip('/')}: {part} is not a directory in this root",
                    hint="The build, an extension or a layer has something else there.",
                ) from error
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def make_directory(root: Path, path: str) -> AbstractContextManager[int]:
    """`open_directory`, after making what is missing, as root's and 0755."""
    return open_directory(root, path, _make)


Enter = Callable[[int, str], int]


def _enter(parent: int, name: str) -> int:
    return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)


def _make(parent: int, name: str) -> int:
    try:
        return _enter(parent, name)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=parent)
        descriptor = _enter(parent, name)
        os.fchmod(descriptor, 0o755)
        return descriptor


def read_file(root: Path, path: str, limit: int) -> tuple[bytes, Attributes] | None:
    """A regular file's content and attributes; None if there is nothing."""
    parent, _, name = path.rpartition("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open_directory(root, parent) as directory:
            descriptor = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StepFailedError(f"/{path} can't be read in this root: {error.strerror}") from error
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StepFailedError(f"/{path} is not a regular file in this root")
        data = stream.read(limit + 1)
        if len(data) > limit:
            raise StepFailedError(f"/{path} of this root has more than {limit} bytes")
        owner = status.st_uid, status.st_gid
        return data, Attributes(stat.S_IMODE(status.st_mode), owner, _xattrs(descriptor))


def _xattrs(descriptor: int) -> tuple[tuple[str, bytes], ...]:
    names = os.listxattr(descriptor)
    return tuple((name, os.getxattr(descriptor, name)) for name in names)


def replace_file(root: Path, path: str, data: bytes, attributes: Attributes) -> None:
    """Put a new file in the place of `path`, or of nothing; never of a directory."""
    parent, _, name = path.rpartition("/")
    with make_directory(root, parent) as directory:
        temporary = f".{name}.{secrets.token_hex(4)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            write_all(descriptor, data)
            if attributes.owner is not None:
                os.fchown(descriptor, *attributes.owner)
            os.fchmod(descriptor, attributes.mode)
            for key, value in attributes.xattrs:
                os.setxattr(descriptor, key, value)
        finally:
            os.close(descriptor)
        _put(directory, temporary, name, path)


def replace_link(root: Path, path: str, target: str) -> None:
    """Put a symbolic link in the place of `path`, or of nothing; never of a directory."""
    parent, _, name = path.rpartition("/")
    with make_directory(root, parent) as directory:
        temporary = f".{name}.{secrets.token_hex(4)}.tmp"
        os.symlink(target, temporary, dir_fd=directory)
        _put(directory, temporary, name, path)


def _put(directory: int, temporary: str, name: str, path: str) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except IsADirectoryError as error:
        os.unlink(temporary, dir_fd=directory)
        raise StepFailedError(
            f"/{path} is a directory in this root",
            hint="A file of this machine can't take its place: take it out of `carry`.",
        ) from error


class _NothingThereError(Exception):
    """A part of a path does not exist."""


def resolve(path: str, read_link: ReadLink) -> str | None:
    """Where `path` leads in a root, relative and without links; None if nowhere.

    Links and `..` never lead out: as after chroot(2).
    """

    def link_at(path: bytes, *, goes_on: bool) -> bytes | None:
        target = read_link(os.fsdecode(path))
        if target is None:
            raise _NothingThereError
        return os.fsencode(target) or None

    try:
        return os.fsdecode(follow_links(os.fsencode(path), link_at, last=True))
    except (TooManyLinksError, _NothingThereError):
        return None


def resolve_in(root: Path, path: str) -> Path | None:
    """`resolve` in a directory: what `path` names, if anything; itself no link, nor behind one."""

    def read_link(relative: str) -> str | None:
        here = root / relative
        try:
            return os.readlink(here) if stat.S_ISLNK(os.lstat(here).st_mode) else ""
        except (FileNotFoundError, NotADirectoryError):
            return None

    found = resolve(path, read_link)
    return None if found is None else root / found


def has_program(root: Path, path: str) -> bool:
    """Whether an absolute path names an executable file in the root."""
    found = resolve_in(root, path)
    if found is None or not path.startswith("/"):
        return False
    mode = found.lstat().st_mode
    return stat.S_ISREG(mode) and bool(mode & 0o111)
