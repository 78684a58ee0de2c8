"""Advisory locks on files and directories, held by an open descriptor.

A lock dies with its process, so no lock file is ever stale. Descriptors are close-on-exec: a child
that outlives its parent holds nothing. Order: sysroot lock, then repository lock; never upgraded.
"""

import enum
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hacktree.common.errors import BusyError

_POLL_SECONDS: Final = 0.05


class LockKind(enum.Enum):
    """Any number of SHARED holders, or one EXCLUSIVE."""

    SHARED = fcntl.LOCK_SH
    EXCLUSIVE = fcntl.LOCK_EX


@contextmanager
def hold_lock(
    path: Path,
    kind: LockKind,
    *,
    timeout: float = 0.0,
    waiting: Callable[[str], None] | None = None,
    silence: float = 0.0,
) -> Iterator[None]:
    """Hold the lock on `path` (a file, or a directory); see `take_lock`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        take_lock(descriptor, path, kind, timeout=timeout, waiting=waiting, silence=silence)
        yield
    finally:
        os.close(descriptor)


def take_lock(
    descriptor: int,
    path: Path,
    kind: LockKind,
    *,
    timeout: float,
    waiting: Callable[[str], None] | None,
    silence: float,
) -> None:
    """Take the lock on `path`, which is open; raises `BusyError` naming the holder.

    Waits up to `timeout` seconds; `waiting` is told once, with the holder, when it has to for more
    than `silence`.
    """
    started = time.monotonic()
    told = False
    while not try_lock(descriptor, kind):
        waited = time.monotonic() - started
        if not told and waiting is not None and waited >= silence:
            waiting(describe_holders(descriptor))
            told = True
        if waited >= timeout:
            raise BusyError(
                f"{path} is locked by {describe_holders(descriptor)}",
                hint="Wait for it to finish, or stop that process, and run this again.",
            )
        time.sleep(_POLL_SECONDS)


def try_lock(descriptor: int, kind: LockKind) -> bool:
    """Take the lock if it is free now."""
    try:
        fcntl.flock(descriptor, kind.value | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def describe_holders(descriptor: int) -> str:
    """Who holds the lock, from /proc/locks: 'process 1234 (hacktree pull fastqa)'."""
    status = os.fstat(descriptor)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    holders = []
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and "->" not in fields and device in fields:
            holders.append(_describe_process(int(fields[4])))
    return ", ".join(sorted(set(holders))) or "another process"


def _describe_process(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return f"process {pid}"
    words = command.decode("utf-8", "replace").rstrip("\0").replace("\0", " ")
    return f"process {pid} ({words[:120]})" if words else f"process {pid}"
