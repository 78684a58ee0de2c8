"""The trees of the commit that was pulled last, in one file of `state/`.

The next pull needs them all, and thousands of small files are slow to open, above all when nothing
of them is in memory. Only a cache, not synced: each tree counts as what its bytes hash to.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.repository.repository import Repository

MAX_CACHE: Final = 128 << 20
"""Bytes; the trees of 300,000 files take about 25 MB."""

_DECODER: Final = msgspec.msgpack.Decoder(list[bytes])


def read_trees(repository: Repository) -> dict[ObjectId, bytes]:
    """What the cache holds; nothing if there is none, or it is damaged or unreadable."""
    try:
        with _path(repository).open("rb") as stream:
            data = stream.read(MAX_CACHE + 1)
        trees = _DECODER.decode(data) if len(data) <= MAX_CACHE else []
    except (OSError, msgspec.MsgspecError):
        return {}
    return {hash_bytes(tree): tree for tree in trees}


def write_trees(repository: Repository, trees: Iterable[bytes]) -> None:
    """Keep these encoded trees instead of what was there."""
    data = msgspec.msgpack.encode(list(trees))
    if len(data) > MAX_CACHE:
        return
    temporary = _path(repository).with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(_path(repository))


def _path(repository: Repository) -> Path:
    return repository.state / "trees.msgpack"
