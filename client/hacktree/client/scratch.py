"""Directories for programs of the host to work in, below $TMPDIR: none is left for long."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hacktree.common.repository.locks import LockKind, try_lock

_PREFIX: Final = "hacktree-scratch-"
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory, which is gone afterwards; after a kill it goes with the next one.

    It is locked for as long as its owner lives.
    """
    top = Path(tempfile.gettempdir())
    _remove_dead(top)
    directory = top / f"{_PREFIX}{secrets.token_hex(8)}"
    descriptor = _make_locked(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
        os.close(descriptor)


def _make_locked(directory: Path) -> int:
    while True:
        directory.mkdir(mode=0o700, exist_ok=True)
        # Between mkdir and the lock somebody may take it for a dead one's.
        with suppress(FileNotFoundError):
            descriptor = os.open(directory, _OPEN)
            if try_lock(descriptor, LockKind.EXCLUSIVE) and directory.exists():
                return descriptor
            os.close(descriptor)


def _remove_dead(top: Path) -> None:
    for name in os.listdir(top):
        if not name.startswith(_PREFIX):
            continue
        try:
            descriptor = os.open(top / name, _OPEN)
        except OSError:
            continue  # Gone, a link, or somebody else's.
        own = os.fstat(descriptor).st_uid == os.geteuid()
        if own and try_lock(descriptor, LockKind.EXCLUSIVE):
            # What a program that outlives its owner still writes to goes another time.
            shutil.rmtree(top / name, ignore_errors=True)
        os.close(descriptor)
