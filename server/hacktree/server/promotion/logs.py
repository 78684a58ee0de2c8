"""Logs of suites: bounded while they are written, then files in `state/qa/logs`."""

import hashlib
import os
import re
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.repository.durable import make_directories, write_durably
from hacktree.common.repository.repository import Repository

MAX_LOG: Final = 1 << 20
"""Bytes of a log that is kept; of longer ones the middle is left out."""

_MARK_SPACE: Final = 100
_NAME: Final = re.compile(r"[0-9a-f]{64}")


MIN_LOG_AGE: Final = 3600
MIN_LOG_SIZE: Final = 16 << 20
"""Seconds and bytes: what was just reported must be there to be read."""


class LogLimits(msgspec.Struct, frozen=True):
    """Logs older than `age` seconds go, and the oldest that exceed `size` bytes together."""

    age: float
    size: int

    def __post_init__(self) -> None:
        if self.age < MIN_LOG_AGE or self.size < MIN_LOG_SIZE:
            raise UserError(
                f"logs are kept for {MIN_LOG_AGE // 3600}h and up to {MIN_LOG_SIZE >> 20}MiB at "
                "least",
                hint='[logs] keep = "90d", max-size = "1GiB"',
            )


class LogTooLargeError(UserError):
    """A log exceeds `MAX_LOG`."""


class BoundedLog:
    """Keeps the beginning and the end of what it is given, in memory of a fixed size."""

    def __init__(self, limit: int = MAX_LOG) -> None:
        room = limit - _MARK_SPACE
        self._head_room = room // 4
        self._tail_room = room - self._head_room
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._left_out = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        take = self._head_room - len(self._head)
        self._head += data[:take]
        data = data[take:] if take else data
        if not data:
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size > self._tail_room:
            first = self._tail.popleft()
            excess = min(len(first), self._tail_size - self._tail_room)
            if excess < len(first):
                self._tail.appendleft(first[excess:])
            self._tail_size -= excess
            self._left_out += excess

    def value(self) -> bytes:
        """What is kept, at most the limit, with a line where the middle is left out."""
        mark = b""
        if self._left_out:
            mark = f"\n[hacktree left out {self._left_out} bytes here]\n".encode()
        return bytes(self._head) + mark + b"".join(self._tail)


def keep_log(repository: Repository, log: bytes) -> str:
    """Store a log durably; returns its name, its sha256. An empty one has the name `""`."""
    if not log:
        return ""
    if len(log) > MAX_LOG:
        raise LogTooLargeError(f"a log of {len(log)} bytes exceeds {MAX_LOG}")
    name = hashlib.sha256(log).hexdigest()
    path = log_path(repository, name)
    make_directories(repository.state, Path("qa/logs") / name[:2], mode=0o700)
    try:
        os.utime(path)  # As old as its last use, for `prune_logs`, which may delete it meanwhile.
    except FileNotFoundError:
        write_durably(path, log)
    return name


def prune_logs(repository: Repository, limits: LogLimits, now: float) -> int:
    """Delete logs that are too old, and the oldest of too many; returns how many.

    Verdicts stay, and still name them. A log of the last hour stays, too.
    """
    found: list[tuple[float, int, Path]] = []
    for path in (repository.state / "qa" / "logs").glob("*/*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # Another process prunes as well.
        found.append((status.st_mtime, status.st_size, path))
    found.sort(reverse=True)
    total = pruned = 0
    for age, size, path in ((now - mtime, size, path) for mtime, size, path in found):
        total += size
        if age > MIN_LOG_AGE and (age > limits.age or total > limits.size):
            path.unlink(missing_ok=True)
            pruned += 1
    return pruned


def log_path(repository: Repository, name: str) -> Path:
    """The file of a log; raises `ValueError` for what is no name of one."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of a log: {name!r}")
    return repository.state / "qa" / "logs" / name[:2] / name
