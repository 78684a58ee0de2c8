"""Deleting a root, and nothing else: never into a mount, never through a link, never under a user.

Bind mounts within one file system have equal st_dev, so a descent compares mount ids. Deleting
unlinks names only; an inode that other roots share is not touched.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import BusyError, SystemFault
from hacktree.common.repository.locks import LockKind, describe_holders, try_lock

TEMPORARY_PREFIX: Final = ".tmp-"
REMOVING_PREFIX: Final = ".removing-"

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OCTAL = re.compile(rb"\\([0-7]{3})")
_MOUNT_ID = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class MountedError(BusyError):
    """Something is mounted in what is to be deleted."""


class RootBusyError(BusyError):
    """Somebody is in the root."""


def delete_leftover(sysroot: Sysroot, name: str) -> None:
    """Delete a directory of `roots/` that is no root: a temporary one, or one being removed."""
    delete_below(sysroot.roots, name)


def delete_below(directory: Path, name: str) -> None:
    """Delete the directory `name` of `directory`, durably. Raises `MountedError`."""
    refuse_mounts(directory / name)
    parent = os.open(directory, _OPEN_DIRECTORY)
    try:
        _delete_directory(parent, name, _mount_id(parent))
        os.fsync(parent)
    finally:
        os.close(parent)


def delete_entry(parent: int, name: str) -> None:
    """Delete what `name` is in the directory that `parent` has open, with all below it."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        _delete_directory(parent, name, _mount_id(parent))


@contextmanager
def hold_root(root: Path) -> Iterator[None]:
    """Hold the root's own lock, which whoever enters a root holds shared.

    Raises `MountedError`, `RootBusyError`.
    """
    refuse_mounts(root)
    descriptor = os.open(root, _OPEN_DIRECTORY)
    try:
        if not try_lock(descriptor, LockKind.EXCLUSIVE):
            raise RootBusyError(
                f"{root.name} is in use by {describe_holders(descriptor)}",
                hint="Leave the root, then run this again.",
            )
        yield
    finally:
        os.close(descriptor)


def refuse_mounts(directory: Path) -> None:
    """Raise `MountedError` if anything is mounted on or below `directory`."""
    for point in mounts_below(directory):
        shown = os.fsdecode(point)
        raise MountedError(
            f"{shown} is a mount point: {directory.name} can't be deleted",
            hint=f"Unmount it (umount {shown}), then run this again.",
        )


def mounts_below(directory: Path) -> list[bytes]:
    """Where something is mounted, on or below `directory`, in the order of mounting."""
    top = os.fsencode(directory.resolve())
    points = [
        _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
    ]
    return [point for point in points if point == top or point.startswith(top + b"/")]


def _delete_directory(parent: int, name: str, mount: int) -> None:
    descriptor = _open_for_deletion(parent, name)
    try:
        if _mount_id(descriptor) != mount:
            raise MountedError(
                f"something is mounted on {os.readlink(f'/proc/self/fd/{descriptor}')}",
                hint="Unmount it, then run this again.",
            )
        with os.scandir(descriptor) as entries:
            below = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in below:
            if is_directory:
                _delete_directory(descriptor, child, mount)
            else:
                os.unlink(child, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


def _open_for_deletion(parent: int, name: str) -> int:
    """Open a directory; without root its own mode may forbid that. No directory is ever shared."""
    try:
        descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    mode = os.fstat(descriptor).st_mode
    if os.geteuid() != 0 and stat.S_IMODE(mode) & 0o700 != 0o700:
        os.chmod(descriptor, 0o700)
    return descriptor


def _mount_id(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}") as stream:
        match = _MOUNT_ID.search(stream.read())
    if match is None:
        raise SystemFault("/proc doesn't tell mount ids", hint="Linux 3.15 or newer is needed.")
    return int(match[1])
