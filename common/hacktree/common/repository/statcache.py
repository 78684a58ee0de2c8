"""Recognising files that have not changed since the last commit, without reading them.

A file is the same if device, inode, size, mtime and ctime are. Entries younger than the scan that
saw them by less than the clock's coarsest step are left out ("racily clean", as git calls it): such
a file may have changed after it was read without its times showing it.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.objects.ids import ObjectId, WireObjectId
from hacktree.common.repository.durable import TEMPORARY_SUFFIX
from hacktree.common.repository.repository import Repository

_RACY_NS: Final = 2_000_000_000
_VERSION: Final = 1

Stamp = tuple[int, int, int]
"""Size in bytes, mtime and ctime in nanoseconds."""

_Row = tuple[int, int, int, int, int, WireObjectId]


class _CacheFile(msgspec.Struct, array_like=True):
    version: int
    rows: list[_Row]


_DECODER: Final = msgspec.msgpack.Decoder(_CacheFile)


class StatCache:
    """What earlier commits learnt of one source directory; filled anew by each commit."""

    def __init__(self, path: Path, known: dict[tuple[int, int], tuple[Stamp, ObjectId]]) -> None:
        self._path = path
        self._known = known
        self._rows: list[_Row] = []

    def lookup(self, status: os.stat_result) -> ObjectId | None:
        """The id of the file's content if it can't have changed."""
        found = self._known.get((status.st_dev, status.st_ino))
        if found is None or found[0] != _stamp(status):
            return None
        return found[1]

    def remember(self, status: os.stat_result, object_id: ObjectId) -> None:
        """Record a file's content for the next commit."""
        self._rows.append((status.st_dev, status.st_ino, *_stamp(status), object_id))

    def save(self, scan_started_ns: int) -> None:
        """Write what was remembered. It is only a cache: not synced, ignored when damaged."""
        youngest = scan_started_ns - _RACY_NS
        rows = [row for row in self._rows if row[3] < youngest and row[4] < youngest]
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}{TEMPORARY_SUFFIX}")
        temporary.write_bytes(msgspec.msgpack.encode(_CacheFile(_VERSION, rows)))
        temporary.replace(self._path)


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def load_stat_cache(repository: Repository, source: Path) -> StatCache:
    """The cache for commits of the directory `source` into `repository`."""
    path = _cache_path(repository, source)
    try:
        file = _DECODER.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.MsgspecError):
        return StatCache(path, {})
    if file.version != _VERSION:
        return StatCache(path, {})
    return StatCache(path, {(r[0], r[1]): ((r[2], r[3], r[4]), r[5]) for r in file.rows})


def forget_stat_cache(repository: Repository, source: Path) -> None:
    """Delete what is known of a directory that is committed once."""
    _cache_path(repository, source).unlink(missing_ok=True)


def _cache_path(repository: Repository, source: Path) -> Path:
    name = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:32]
    return repository.state / "statcache" / f"{name}.msgpack"
