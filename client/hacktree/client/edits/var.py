"""/var of a sysroot: filled from its roots' trees by copy, never by link, and never emptied.

A directory that a root has and /var lacks is copied whole; what is there is never touched. So a
file that a later build adds to a directory that exists does not come along: it is that directory's
owner who fills it.
"""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hacktree.client.edits.places import SILENCE, var_directory
from hacktree.client.edits.treecopy import OPEN_DIRECTORY, copy_directory, copy_entry
from hacktree.client.removal import delete_below
from hacktree.client.sysroot import Sysroot
from hacktree.common.repository.durable import (
    make_directories,
    sync_directory,
    sync_filesystem,
)
from hacktree.common.repository.locks import LockKind, hold_lock

STAGING: Final = "var.new"
_PATIENCE: Final = 60.0
_ORDINARY: Final = 0o755


def prepare_var(sysroot: Sysroot, root: str, waiting: Callable[[str], None] | None = None) -> Path:
    """Fill /var with the directories of `root` that it lacks; returns where it is.

    Somebody else may be at it: `waiting` is told who, when that takes more than a second.
    Killed anywhere, it leaves no directory half-filled: each is copied beside /var, synced and
    renamed. The next call goes on.
    """
    top, var = sysroot.repository.path, var_directory(sysroot)
    make_directories(top, Path(STAGING), mode=0o700)
    with hold_lock(
        top / STAGING, LockKind.EXCLUSIVE, timeout=_PATIENCE, waiting=waiting, silence=SILENCE
    ):
        for name in os.listdir(top / STAGING):
            delete_below(top / STAGING, name)
        source = _open_source(sysroot.roots / root / "var")
        try:
            if not var.exists():
                _fill_whole(top / STAGING, source, var)
            elif source is not None:
                target = os.open(var, OPEN_DIRECTORY)
                try:
                    _add_missing(top / STAGING, source, target)
                finally:
                    os.close(target)
        finally:
            if source is not None:
                os.close(source)
    return var


def _open_source(path: Path) -> int | None:
    try:
        return os.open(path, OPEN_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fill_whole(staging: Path, source: int | None, var: Path) -> None:
    made = staging / "var"
    made.mkdir(_ORDINARY)
    made.chmod(_ORDINARY)
    descriptor = os.open(made, OPEN_DIRECTORY)
    try:
        if source is not None:
            copy_directory(source, descriptor)
        sync_filesystem(descriptor)
    finally:
        os.close(descriptor)
    os.rename(made, var)
    sync_directory(var.parent)


def _add_missing(staging: Path, source: int, target: int) -> None:
    with os.scandir(source) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in names:
        try:
            status = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            _add(staging, source, target, name)
            continue
        if stat.S_ISDIR(status.st_mode):
            below, there = (os.open(name, OPEN_DIRECTORY, dir_fd=d) for d in (source, target))
            try:
                _add_missing(staging, below, there)
            finally:
                os.close(below)
                os.close(there)


def _add(staging: Path, source: int, target: int, name: str) -> None:
    place = staging / secrets.token_hex(8)
    place.mkdir(0o700)
    descriptor = os.open(place, OPEN_DIRECTORY)
    try:
        copy_entry(source, descriptor, name)
        sync_filesystem(descriptor)
        os.rename(name, name, src_dir_fd=descriptor, dst_dir_fd=target)
        os.fsync(target)
    finally:
        os.close(descriptor)
    place.rmdir()
