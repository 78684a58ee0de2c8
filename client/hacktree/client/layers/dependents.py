"""Which files of a commit need which libraries: looked at when a layer brings or takes one.

Reading an operating system's ELF files takes about a second, so what was found is kept by the id
of the tree in `.ht/state/needs/`. It is only a cache: not synced, ignored when damaged.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.layers.dynamic import read_dynamic
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.durable import TEMPORARY_SUFFIX
from hacktree.common.repository.repository import Repository

_VERSION: Final = 1
_KEPT: Final = 4
_SUFFIX: Final = ".msgpack"
_LARGEST: Final = 1 << 27


class _CacheFile(msgspec.Struct, array_like=True):
    version: int
    needs: dict[bytes, list[bytes]]


_DECODER: Final = msgspec.msgpack.Decoder(_CacheFile)

Dependents = dict[bytes, list[bytes]]
"""By the name of a library: the paths of the files that need it."""


def read_dependents(repository: Repository, tree: ObjectId) -> Dependents:
    """What needs what in the tree of a commit, in a repository in a bare mode."""
    path = repository.state / "needs" / f"{tree.hex()}{_SUFFIX}"
    known = _read_cache(path)
    if known is None:
        known = _find_dependents(repository, tree)
        _write_cache(path, known)
    return known


def _find_dependents(repository: Repository, tree: ObjectId) -> Dependents:
    found: Dependents = {}
    for path, entry in walk_tree(repository.load_tree, tree):
        # A library needs no permission to be executed, a program has one.
        if not isinstance(entry, FileEntry) or not (entry.mode & 0o111 or b".so" in entry.name):
            continue
        descriptor = os.open(repository.content_path(entry), os.O_RDONLY | os.O_CLOEXEC)
        try:
            dynamic = read_dynamic(descriptor) if entry.size else None
        finally:
            os.close(descriptor)
        for name in dynamic.needed if dynamic is not None else ():
            found.setdefault(name, []).append(path)
    return found


def _read_cache(path: Path) -> Dependents | None:
    try:
        with open(path, "rb") as stream:
            file = _DECODER.decode(stream.read(_LARGEST))
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return file.needs if file.version == _VERSION else None


def _write_cache(path: Path, needs: Dependents) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    temporary.write_bytes(msgspec.msgpack.encode(_CacheFile(_VERSION, needs)))
    temporary.replace(path)
    _drop_old(path.parent)


def _drop_old(directory: Path) -> None:
    ages = []
    for path in directory.iterdir():
        # Checks of layers take no lock: another one may be at it.
        with suppress(FileNotFoundError):
            ages.append((path.stat().st_mtime, path))
    for _, old in sorted(ages)[:-_KEPT]:
        old.unlink(missing_ok=True)
