"""`state/deltas`: what encoders made, kept for a run that is interrupted and for packs to come.

A file's name is a hash of everything that its content depends on: the objects, the codec's code,
and for kernel modules the shared maps. Nothing here is synced: a file that a crash damaged fails
its checksum and is made again. `delta-cache` in config.toml bounds the size.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.config import parse_size
from hacktree.common.repository.encoding import codec_version
from hacktree.common.repository.repository import Repository

_DIRECTORY: Final = "deltas"


class DeltaCache:
    """Names of cache files; made by `open_cache`."""

    def __init__(self, directory: Path, version: bytes, maps: bytes) -> None:
        self._directory = directory
        self._version = version
        self._maps = maps

    def entry(self, base: ObjectId, target: ObjectId, *, uses_maps: bool) -> Path:
        """The file for the entries of `target` against `base`."""
        return self._path(b"entry", base, target, self._maps if uses_maps else b"")

    def frame(self, entries: Iterable[bytes]) -> Path:
        """The file for a frame; each of `entries` says all about one entry."""
        return self._path(b"frame", self._maps, *entries)

    def _path(self, *parts: bytes) -> Path:
        digest = hashlib.sha256(self._version)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        name = digest.hexdigest()
        return self._directory / name[:2] / name[2:]


def open_cache(repository: Repository, maps: bytes) -> DeltaCache:
    """The cache for packs with these encoded shared maps; its directories are made."""
    directory = repository.state / _DIRECTORY
    for number in range(256):
        (directory / f"{number:02x}").mkdir(mode=0o700, parents=True, exist_ok=True)
    return DeltaCache(directory, codec_version(), maps)


def trim_cache(repository: Repository) -> int:
    """Delete what was not used for longest until the rest fits `delta-cache`; bytes deleted."""
    files = []
    for directory, _, names in os.walk(repository.state / _DIRECTORY):
        for name in names:
            status = os.stat(os.path.join(directory, name))
            files.append((status.st_mtime, status.st_size, os.path.join(directory, name)))
    excess = sum(size for _, size, _ in files) - parse_size(repository.config.delta_cache)
    deleted = 0
    for _, size, path in sorted(files):
        if deleted >= excess:
            break
        os.unlink(path)
        deleted += size
    return deleted
