"""The layers of steps that were replayed: `.ht/replay/<key>/`, kept while a root's record names it.

    upper/      what the step wrote
    log         what it printed
    entry.json  the step's name, the layer's stamp

An entry is complete when it has its final name, which it gets once it is durable. A key chains the
digests of the steps from the commit's tree on.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.removal import REMOVING_PREFIX, TEMPORARY_PREFIX, delete_below
from hacktree.client.replay.step import Step
from hacktree.client.replay.upper import stamp
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.commit import Commit
from hacktree.common.repository.durable import sync_directory

FORMAT: Final = 1
"""Part of every key: another one where equal steps would make other layers."""

UPPER: Final = "upper"
LOG: Final = "log"
_ENTRY: Final = "entry.json"
_MAX_ENTRY: Final = 64 << 10


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `entry.json` says; `stamp` in hexadecimal digits, `seconds` that the step took.

    Without a stamp the layer is never used again: without root, a directory that is closed to its
    owner can't be looked at.
    """

    step: str
    stamp: str
    seconds: float


def chain_keys(sysroot: Sysroot, commit: Commit, steps: Sequence[Step]) -> list[str]:
    """The key of each step, in hexadecimal digits."""
    root = commit.root
    start = (
        FORMAT, sysroot.repository.mode.value, root.id.hex(), root.mode, root.uid, root.gid,
        root.xattrs,
    )  # fmt: skip
    key = hashlib.sha256(b"hacktree replay\0" + msgspec.msgpack.encode(start)).digest()
    keys = []
    for step in steps:
        key = hashlib.sha256(key + step.digest).digest()
        keys.append(key.hex())
    return keys


def place_of(sysroot: Sysroot, key: str) -> Path:
    """Where a complete entry is."""
    return sysroot.replay / key


def staged_place(sysroot: Sysroot, key: str) -> Path:
    """Where an entry is made."""
    return sysroot.replay / f"{TEMPORARY_PREFIX}{key}"


def find_complete(sysroot: Sysroot, key: str) -> bool:
    """Whether a usable entry is there: one that somebody wrote to, or took from, since is none."""
    place = place_of(sysroot, key)
    entry = read_entry(place)
    if entry is None or entry.stamp == "":
        return False
    try:
        return _stamp(place) == entry.stamp
    except (FileNotFoundError, NotADirectoryError):
        return False


def _stamp(place: Path) -> str:
    """Owners as they are outside of any user namespace; empty where a person can't look."""
    try:
        return stamp(place / UPPER).hex()
    except PermissionError:
        return ""


def read_entry(place: Path) -> Entry | None:
    """What an entry says of itself; None where it says nothing that can be read."""
    try:
        with open(place / _ENTRY, "rb") as stream:
            return msgspec.json.decode(stream.read(_MAX_ENTRY), type=Entry)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return None


def write_entry(place: Path, step: str, seconds: float) -> None:
    """Complete a staged entry, but for its name and durability."""
    entry = Entry(step, _stamp(place), round(seconds, 4))
    (place / _ENTRY).write_bytes(msgspec.json.encode(entry))


def begin_staging(sysroot: Sysroot, key: str) -> Path:
    """An empty place for an entry."""
    sysroot.replay.mkdir(mode=0o700, exist_ok=True)
    place = staged_place(sysroot, key)
    if place.exists():
        delete_below(sysroot.replay, place.name)
    place.mkdir(mode=0o700)
    return place


def drop_unfinished(sysroot: Sysroot) -> None:
    """Delete what was begun and not published; the caller holds the sysroot lock."""
    for name in list_unfinished(sysroot):
        delete_below(sysroot.replay, name)


def publish_staged(sysroot: Sysroot, keys: Iterable[str]) -> None:
    """Give staged entries, which a syncfs made durable, their names, durably."""
    published = False
    for key in keys:
        place = place_of(sysroot, key)
        if place.exists():
            remove_entry(sysroot, key)
        os.rename(staged_place(sysroot, key), place)
        published = True
    if published:
        sync_directory(sysroot.replay)
        sync_directory(sysroot.replay.parent)


def remove_entry(sysroot: Sysroot, key: str) -> None:
    """Delete an entry; roots keep the inodes that they link to."""
    removing = f"{REMOVING_PREFIX}{key}"
    os.rename(place_of(sysroot, key), sysroot.replay / removing)
    delete_below(sysroot.replay, removing)


def list_entries(sysroot: Sysroot) -> list[str]:
    """The keys of complete entries."""
    return sorted(name for name in _names(sysroot) if len(name) == 64 and name.isalnum())


def list_unfinished(sysroot: Sysroot) -> list[str]:
    """Directories that a crash left."""
    return sorted(
        name for name in _names(sysroot) if name.startswith((TEMPORARY_PREFIX, REMOVING_PREFIX))
    )


def _names(sysroot: Sysroot) -> list[str]:
    try:
        return os.listdir(sysroot.replay)
    except FileNotFoundError:
        return []


def prune_cache(sysroot: Sysroot, kept: Iterable[str]) -> int:
    """Delete the entries whose keys are not among `kept`; returns how many."""
    removed = sorted(set(list_entries(sysroot)) - set(kept))
    for key in removed:
        remove_entry(sysroot, key)
    return len(removed)
