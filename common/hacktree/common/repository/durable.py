"""The routines that make names durable. Files and links are replaced nowhere else.

Every name is published as invariant 2 asks: write a temporary, sync it, rename or link it, sync the
directory. docs/architecture.md, "Write order".
"""

import ctypes
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

TEMPORARY_SUFFIX: Final = ".tmp"
_MANY_DIRECTORIES: Final = 8
_libc = ctypes.CDLL(None, use_errno=True)


def sync_filesystem(descriptor: int) -> None:
    """syncfs(2): everything written to the file system that holds `descriptor` is durable."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "syncfs")


def sync_filesystem_of(directory: Path) -> None:
    """As `sync_filesystem`, for the file system that holds a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_filesystem(descriptor)
    finally:
        os.close(descriptor)


def drop_cached(path: str) -> None:
    """Give back the memory that holds a file's content, as far as the disk has it.

    It is a hint: nothing fails, and what reads the file next reads the disk.
    """
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def sync_directory(path: Path | str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by a file holding `data`: a reader sees the old bytes or the new, whole."""
    temporary = _write_temporary(path, data, mode)
    _rename(temporary, path)
    sync_directory(path.parent)


def replace_published(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Like `write_durably`, with an mtime that is later, in whole seconds, than the old file's.

    Web servers build an ETag from size and mtime in seconds; without this two refs written within
    one second would validate as each other.
    """
    temporary = _write_temporary(path, data, mode)
    try:
        old = path.stat()
    except FileNotFoundError:
        pass
    else:
        if int(temporary.stat().st_mtime) <= int(old.st_mtime):
            later = int(old.st_mtime) + 1
            os.utime(temporary, (later, later))
    _rename(temporary, path)
    sync_directory(path.parent)


def publish_file(staged: Path, path: Path, *, mode: int = 0o644) -> None:
    """Give a finished file of the same file system its published name, durably."""
    descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _rename(staged, path)
    sync_directory(path.parent)


def swap_symlink(link: Path, target: str) -> None:
    """Point `link` at `target` in one step: at every instant it is the old link or the new."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    os.symlink(target, temporary)
    _rename(temporary, link)
    sync_directory(link.parent)


def replace_by_link(path: Path, source: Path) -> None:
    """Replace `path` by a hard link to `source`, which may be a symbolic link, in one step.

    That needs no inode and no block, so it succeeds on a full disk. They are not the same file yet.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    os.link(source, temporary, follow_symlinks=False)
    _rename(temporary, path)
    sync_directory(path.parent)


def make_directories(base: Path, relative: Path, *, mode: int) -> None:
    """Create `base/relative` below the existing `base`, each new name synced into its parent."""
    current = base
    for part in relative.parts:
        current = current / part
        try:
            current.mkdir(mode)
        except FileExistsError:
            continue
        current.chmod(mode)
        sync_directory(current.parent)


def remove_durably(path: Path) -> None:
    """Delete a file, and make the deletion durable."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    descriptor = os.open(
        temporary,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    try:
        try:
            write_all(descriptor, data)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """write(2) until everything is written."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        view = view[written:]


def sync_directories(paths: Iterable[Path]) -> None:
    """Sync directories of one file system, all at once if there are many.

    A disk that has to empty its cache for each of 256 takes a tenth of a second for it.
    """
    wanted = sorted(set(paths))
    if len(wanted) <= _MANY_DIRECTORIES:
        for path in wanted:
            sync_directory(path)
    else:
        sync_filesystem_of(wanted[0])
