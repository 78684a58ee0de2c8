"""Directories for programs of the host to work in: none is left for long."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.removal import delete_below
from hacktree.common.errors import BusyError
from hacktree.common.repository.locks import LockKind, try_lock

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch(msgspec.Struct, frozen=True):
    """A directory, and the open descriptor of it that holds its lock: processes that inherit this
    one hold the lock, too."""

    path: Path
    lock: int


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory below $TMPDIR for as long as its owner lives; as `scratch_below`."""
    with scratch_below(Path(tempfile.gettempdir()), "hacktree-scratch-") as scratch:
        yield scratch.path


@contextmanager
def scratch_below(top: Path, prefix: str) -> Iterator[Scratch]:
    """An empty directory of `top`, which is gone afterwards.

    After a kill it goes with the next one of this prefix that is made when nobody holds its lock.
    """
    _remove_dead(top, prefix)
    scratch = _make_locked(top, prefix)
    try:
        yield scratch
    finally:
        delete_below(top, scratch.path.name)
        os.close(scratch.lock)


def _make_locked(top: Path, prefix: str) -> Scratch:
    directory = top / f"{prefix}{secrets.token_hex(8)}"
    while True:
        directory.mkdir(mode=0o700, exist_ok=True)
        # Between mkdir and the lock somebody may take it for a dead one's.
        with suppress(FileNotFoundError):
            descriptor = os.open(directory, _OPEN)
            if try_lock(descriptor, LockKind.EXCLUSIVE) and directory.exists():
                return Scratch(directory, descriptor)
            os.close(descriptor)


def _remove_dead(top: Path, prefix: str) -> None:
    for name in os.listdir(top):
        if not name.startswith(prefix):
            continue
        try:
            descriptor = os.open(top / name, _OPEN)
        except OSError:
            continue  # Gone, a link, or somebody else's.
        own = os.fstat(descriptor).st_uid == os.geteuid()
        if own and try_lock(descriptor, LockKind.EXCLUSIVE):
            # What a program that outlives its owner still writes to goes another time.
            with suppress(OSError, BusyError):
                delete_below(top, name)
        os.close(descriptor)
