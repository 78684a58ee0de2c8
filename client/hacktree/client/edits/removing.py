"""Removing a root: a copy of what was written in it is kept first, then all that is its own goes.

/var stays: it is every root's.
"""

import os
import time
from pathlib import Path

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
    refuse_mounts,
)
from hacktree.client.roots import ROOT_NAME, forget_root
from hacktree.client.sysroot import Sysroot
from hacktree.common.repository.durable import sync_directory


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
    """Delete the overlay of a root, of which a copy was kept; renamed first: a part is no edit."""
    top = etc_directory(sysroot)
    if (top / name).is_dir():
        refuse_mounts(top / name)
        os.rename(top / name, top / f"{REMOVING_PREFIX}{name}")
        sync_directory(top)
        delete_below(top, f"{REMOVING_PREFIX}{name}")


def list_leftovers(sysroot: Sysroot) -> list[Path]:
    """Overlays whose root is gone, and copies and overlays that are unfinished."""
    kept = [p for p in _listed(kept_directory(sysroot)) if p.name.startswith(TEMPORARY_PREFIX)]
    etc = [p for p in _listed(etc_directory(sysroot)) if _is_leftover(sysroot, p.name)]
    return sorted(kept + etc)


def _is_leftover(sysroot: Sysroot, name: str) -> bool:
    if name.startswith(REMOVING_PREFIX):
        return True
    # One that is being made has its root, which whoever makes it has locked.
    root = name.removeprefix(TEMPORARY_PREFIX)
    places = (root, f"{REMOVING_PREFIX}{root}", f"{TEMPORARY_PREFIX}{root}")
    found = any(os.path.lexists(sysroot.roots / place) for place in places)
    return ROOT_NAME.fullmatch(root) is not None and not found


def discard_leftovers(sysroot: Sysroot) -> list[str]:
    """Delete what `list_leftovers` finds; the caller holds the sysroot lock.

    Of an overlay whose root is gone, also if somebody else deleted it, a copy is there or is made.
    Returns a line for each that has to stay.
    """
    stay = []
    for path in list_leftovers(sysroot):
        try:
            if path.name.startswith((REMOVING_PREFIX, TEMPORARY_PREFIX)):
                delete_below(path.parent, path.name)
            else:
                upper = etc_place(sysroot, path.name).upper
                keep_copy(sysroot, path.name, find_edits(upper, None), time.time())
                _discard_etc(sysroot, path.name)
        except MountedError as error:
            stay.append(f"{path} is left over from an interrupted command: {error.message}")
    return stay


def _listed(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
