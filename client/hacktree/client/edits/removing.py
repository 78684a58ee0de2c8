"""Removing a root: a copy of what was written in it is kept first, then all that is its own goes.

/var stays: it is every root's.
"""

import os
import time
from pathlib import Path
from typing import Final

from hacktree.client.edits.edits import find_edits, root_edits
from hacktree.client.edits.kept import keep_copy
from hacktree.client.edits.places import etc_directory, etc_place, kept_directory
from hacktree.client.removal import (
    REMOVING_PREFIX,
    TEMPORARY_PREFIX,
    MountedError,
    delete_below,
    delete_leftover,
    hold_root,
)
from hacktree.client.roots import ROOT_NAME, forget_root
from hacktree.client.sysroot import Sysroot
from hacktree.common.repository.durable import sync_directory
from hacktree.common.repository.locks import LockKind, hold_lock

_PATIENCE: Final = 30.0


def remove_root(sysroot: Sysroot, name: str) -> None:
    """Delete the root `name`, its /etc overlay, then its record and its pin.

    The caller holds the sysroot lock. What was written in its /etc is copied first. The root is
    renamed before it is deleted, so that what a crash leaves is known as rubbish. Raises
    `MountedError` or `RootBusyError` before anything is changed.
    """
    with hold_root(sysroot.roots / name):
        keep_copy(sysroot, name, root_edits(sysroot, name), time.time())
        removing = f"{REMOVING_PREFIX}{name}"
        os.rename(sysroot.roots / name, sysroot.roots / removing)
        sync_directory(sysroot.roots)
        delete_leftover(sysroot, removing)
    _discard_etc(sysroot, name)
    forget_root(sysroot, name)


def _discard_etc(sysroot: Sysroot, name: str) -> None:
    if etc_place(sysroot, name).directory.is_dir():
        delete_below(etc_directory(sysroot), name)


def list_leftovers(sysroot: Sysroot) -> list[Path]:
    """Overlays whose root is gone, and copies and overlays that nobody finished."""
    etc, kept = etc_directory(sysroot), kept_directory(sysroot)
    found = [path for path in _listed(kept) if path.name.startswith(TEMPORARY_PREFIX)]
    for path in _listed(etc):
        name = path.name.removeprefix(TEMPORARY_PREFIX)
        places = (name, f"{REMOVING_PREFIX}{name}", f"{TEMPORARY_PREFIX}{name}")
        if ROOT_NAME.fullmatch(name) and not any(
            os.path.lexists(sysroot.roots / place) for place in places
        ):
            found.append(path)
    return sorted(found)


def discard_leftovers(sysroot: Sysroot) -> list[str]:
    """Delete what `list_leftovers` finds; the caller holds the sysroot lock.

    Of an overlay whose root is gone, also if somebody else deleted it, a copy is there or is made.
    Returns a line for each that has to stay.
    """
    stay = []
    for path in list_leftovers(sysroot):
        try:
            if path.parent == etc_directory(sysroot):
                _discard_orphan(sysroot, path)
            else:
                delete_below(path.parent, path.name)
        except MountedError as error:
            stay.append(f"{path} is left over from an interrupted command: {error.message}")
    return stay


def _discard_orphan(sysroot: Sysroot, path: Path) -> None:
    with hold_lock(path.parent, LockKind.EXCLUSIVE, timeout=_PATIENCE):
        upper = path / "upper"
        if not path.name.startswith(TEMPORARY_PREFIX) and upper.is_dir():
            keep_copy(sysroot, path.name, find_edits(upper, None), time.time())
        delete_below(path.parent, path.name)


def _listed(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
