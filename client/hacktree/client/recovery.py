"""What an interrupted command left, and putting it right; every command that changes roots does.

Nothing here needs to know where it stopped: what is complete stays, what is not goes.
"""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.edits.removing import discard_leftovers, list_leftovers
from hacktree.client.removal import (
    REMOVING_PREFIX,
    TEMPORARY_PREFIX,
    MountedError,
    delete_below,
    delete_leftover,
)
from hacktree.client.replay.cache import list_unfinished
from hacktree.client.roots import (
    PIN_PREFIX,
    RECORD_SUFFIX,
    forget_root,
    list_root_directories,
    read_roots,
    root_of_target,
)
from hacktree.client.swap import find_unnoted, note_live
from hacktree.client.sysroot import Sysroot
from hacktree.common.repository.durable import remove_durably

_TEMPORARY_FILE: Final = r"\.(?:{})\.[0-9a-f]{{8}}\.tmp"


class Leftovers(msgspec.Struct, frozen=True):
    """What is not as a finished command leaves it."""

    directories: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    unnoted: str | None = None
    edits: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.directories
            or self.layers
            or self.forgotten
            or self.files
            or self.unnoted
            or self.edits
        )

    def describe(self) -> list[str]:
        """One line for each thing that recovery will do."""
        lines = [f"delete the unfinished root {name}" for name in self.directories]
        lines += [f"delete the unfinished layer {name[:20]}" for name in self.layers]
        lines += [f"delete the record of {name}, which is gone" for name in self.forgotten]
        lines += [f"delete {path}" for path in (*self.files, *self.edits)]
        if self.unnoted is not None:
            lines.append(f"note that {self.unnoted} went live")
        return lines


def find_leftovers(sysroot: Sysroot) -> Leftovers:
    """Look, change nothing. Only meaningful while nobody holds the sysroot lock, or the caller."""
    directories = sorted(
        name
        for name in os.listdir(sysroot.roots)
        if name.startswith((TEMPORARY_PREFIX, REMOVING_PREFIX))
    )
    complete = set(list_root_directories(sysroot))
    known = {
        name.removesuffix(RECORD_SUFFIX)
        for name in os.listdir(sysroot.records)
        if name.endswith(RECORD_SUFFIX) and not name.startswith(".")
    } | {
        name.removeprefix(PIN_PREFIX)
        for name in os.listdir(sysroot.pins)
        if name.startswith(PIN_PREFIX)
    }
    return Leftovers(
        tuple(directories),
        tuple(list_unfinished(sysroot)),
        tuple(sorted(known - complete)),
        tuple(_stray_files(sysroot)),
        find_unnoted(read_roots(sysroot)),
        tuple(list_leftovers(sysroot)),
    )


def recover(sysroot: Sysroot) -> list[str]:
    """Complete or discard what was interrupted; the caller holds the sysroot lock.

    Returns a line for each thing that has to stay as it is, which no command is blocked by.
    """
    found = find_leftovers(sysroot)
    kept = []
    for name in found.directories:
        try:
            delete_leftover(sysroot, name)
        except MountedError as error:
            kept.append(f"{name} is left over from an interrupted command: {error.message}")
    for name in found.layers:
        try:
            delete_below(sysroot.replay, name)
        except MountedError as error:
            kept.append(f"{name} is left over from an interrupted replay: {error.message}")
    if found.unnoted is not None:
        note_live(sysroot)
    kept += discard_leftovers(sysroot)
    for name in found.forgotten:
        if f"{REMOVING_PREFIX}{name}" not in os.listdir(sysroot.roots):
            forget_root(sysroot, name)
    for path in found.files:
        remove_durably(path)
    return kept


def _stray_files(sysroot: Sysroot) -> list[Path]:
    """Temporary files and links that only deploying makes; pulls have others in `state`."""
    link = re.escape(sysroot.config.name)
    state = sysroot.repository.state
    found = [
        path
        for path in _matching(sysroot.path, link)
        if path.is_symlink() and root_of_target(os.readlink(path)) is not None
    ]
    found += _matching(state, r"deployments\.json|users\.json")
    found += _matching(sysroot.records, r".+\.json")
    found += _matching(sysroot.pins, rf"{PIN_PREFIX}.+")
    return found


def _matching(directory: Path, names: str) -> list[Path]:
    pattern = re.compile(_TEMPORARY_FILE.format(names))
    return sorted(directory / name for name in os.listdir(directory) if pattern.fullmatch(name))
