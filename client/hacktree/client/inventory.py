"""What is in objects/ right now: the names, read by listing its directories."""

import os
import time
from bisect import bisect_left
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository

Stamp = list[tuple[str, int, int]]
"""(directory, inode, mtime in ns) of objects/: changes when an object comes or goes."""

_DIGITS: Final = 62
"""Of a content's id, in the names of a directory of objects/, which has the first two."""

_TICK_NS: Final = 100_000_000
"""Two changes within so many nanoseconds may leave the same mtime: a tick of the kernel's clock."""


class Inventory(msgspec.Struct):
    """Object names relative to objects/, as a set; contents by id for finding another variant.

    `listed`: what each directory of objects/ holds. `stamp`: of objects/ before it was listed; None
    if it had just changed. `settled`: inodes and mtimes of the directories that had not.
    """

    names: set[str]
    listed: dict[str, list[str]]
    stamp: Stamp | None = None
    settled: dict[str, tuple[int, int]] = {}
    _sorted: set[str] = set()
    _contents: set[str] | None = None

    def names_in(self, directory: str) -> list[str]:
        """The names that begin with it."""
        return [f"{directory}/{name}" for name in self.listed.get(directory, ())]

    def holds(self, object_id: ObjectId) -> bool:
        """Whether some object holds this content."""
        if self._contents is None:
            # A search for each of thousands would take longer. Other threads see all of it or none.
            self._contents = {
                directory + name[:_DIGITS]
                for directory, names in self.listed.items()
                for name in names
                if not name.endswith(".meta")
            }
        return object_id.hex() in self._contents

    def variant_of(self, object_id: ObjectId) -> str | None:
        """The name of some object that holds this content."""
        if not self.holds(object_id):
            return None
        text = object_id.hex()
        directory, start = text[:2], text[2:]
        listed = self.listed.get(directory, [])
        if directory not in self._sorted:
            listed.sort()
            self._sorted.add(directory)
        for index in range(bisect_left(listed, start), len(listed)):
            name = listed[index]
            if not name.startswith(start):
                break
            if not name.endswith(".meta"):
                return f"{directory}/{name}"
        return None


def read_inventory(repository: Repository, before: Inventory | None = None) -> Inventory:
    """List objects/: linear in what is there, without touching an inode.

    `before`: an earlier inventory, of which the directories are taken that did not change since.
    """
    stamp = stamp_objects(repository)
    changing = time.time_ns() - _TICK_NS
    before = before or Inventory(set(), {})
    after = Inventory(set(before.names), {})
    for directory, inode, mtime in stamp:
        if before.settled.get(directory) == (inode, mtime):
            after.listed[directory] = before.listed[directory]
        else:
            after.names.difference_update(before.names_in(directory))
            try:
                after.listed[directory] = os.listdir(f"{repository.path}/objects/{directory}")
            except FileNotFoundError:
                continue
            after.names.update(after.names_in(directory))
        if mtime < changing:
            after.settled[directory] = (inode, mtime)
    for directory in before.listed.keys() - after.listed.keys():
        after.names.difference_update(before.names_in(directory))
    if len(after.settled) == len(stamp):
        after.stamp = stamp
    return after


class _Marker(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    commit: bytes
    stamp: Stamp


def stamp_objects(repository: Repository) -> Stamp:
    """The stamp of objects/ now."""
    stamp = []
    for directory in sorted(os.listdir(repository.objects)):
        if len(directory) != 2:
            continue
        status = os.stat(f"{repository.path}/objects/{directory}")
        stamp.append((directory, status.st_ino, status.st_mtime_ns))
    return stamp


def is_known_complete(repository: Repository, commit_id: ObjectId) -> bool:
    """Whether everything the commit needs was here, and nothing came or went since."""
    try:
        marker = msgspec.msgpack.decode(_marker_path(repository).read_bytes(), type=_Marker)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return False
    return marker.commit == commit_id and marker.stamp == stamp_objects(repository)


def mark_complete(repository: Repository, commit_id: ObjectId, stamp: Stamp) -> None:
    """Remember that the commit was complete at `stamp`. Only a cache: not synced."""
    path = _marker_path(repository)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(msgspec.msgpack.encode(_Marker(commit_id, stamp)))
    temporary.replace(path)


def _marker_path(repository: Repository) -> Path:
    return repository.state / "complete.msgpack"
