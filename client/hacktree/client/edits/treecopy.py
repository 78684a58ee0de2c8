"""Copying directories: contents, owners, modes, times, extended attributes; nothing is followed.

A copy shares no inode with what it was made from. Sockets, FIFOs and devices are left out.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from hacktree.common.repository.durable import write_all

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A FIFO that took a file's name meanwhile must not block."""

_CHUNK: Final = 1 << 20
_OVERLAY: Final = ("trusted.overlay.", "user.overlay.")
_UNSET: Final = ("security.selinux", "system.nfs4_acl")

Skip = Callable[[os.stat_result], bool]


def is_private_xattr(name: str) -> bool:
    """Whether an attribute is an overlay's own, or the file system's to set."""
    return name.startswith(_OVERLAY) or name in _UNSET


def copy_directory(source: int, target: int, skip: Skip | None = None) -> None:
    """Copy what the directory `source` holds, and its attributes, to the empty `target`.

    Both are descriptors. Entries whose status `skip` accepts are left out.
    """
    with os.scandir(source) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        # Somebody may be at work there: what is gone by now is left out.
        with suppress(FileNotFoundError):
            copy_entry(source, target, name, skip)
    copy_attributes(source, target)


def copy_entry(source: int, target: int, name: str, skip: Skip | None = None) -> None:
    """Copy the entry `name` of one directory into another, where that name is free.

    Raises FileNotFoundError if it is gone; nothing of it is in the other directory then.
    """
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if skip is not None and skip(status):
        return
    if stat.S_ISDIR(status.st_mode):
        below = os.open(name, OPEN_DIRECTORY, dir_fd=source)
        try:
            os.mkdir(name, 0o700, dir_fd=target)
            made = os.open(name, OPEN_DIRECTORY, dir_fd=target)
            try:
                copy_directory(below, made, skip)
            finally:
                os.close(made)
        finally:
            os.close(below)
    elif stat.S_ISREG(status.st_mode):
        _copy_file(source, target, name)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        if os.geteuid() == 0:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)


def read_whole(parent: int, name: bytes, limit: int) -> bytes | None:
    """A regular file's bytes; None if it is gone, of another kind, or larger than `limit`."""
    try:
        descriptor = os.open(name, _READ, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None
        raise
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = stream.read(limit + 1)
    return data if len(data) <= limit else None


def _copy_file(source: int, target: int, name: str) -> None:
    reading = os.open(name, _READ, dir_fd=source)
    try:
        writing = os.open(
            name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=target,
        )
        try:
            while data := os.read(reading, _CHUNK):
                write_all(writing, data)
            copy_attributes(reading, writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def copy_attributes(source: int, target: int) -> None:
    """Give the file or directory `target` the owner, attributes, mode and times of `source`."""
    status = os.fstat(source)
    if os.geteuid() == 0:
        os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if not is_private_xattr(name):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
