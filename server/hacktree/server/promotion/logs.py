"""Logs of suites: bounded while they are written, then files in `state/qa/logs`."""

import hashlib
import re
from collections import deque
from pathlib import Path
from typing import Final

from hacktree.common.errors import UserError
from hacktree.common.repository.durable import make_directories, write_durably
from hacktree.common.repository.repository import Repository

MAX_LOG: Final = 1 << 20
"""Bytes of a log that is kept; of longer ones the middle is left out."""

_MARK_SPACE: Final = 100
_NAME: Final = re.compile(r"[0-9a-f]{64}")


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
    if not path.exists():
        write_durably(path, log)
    return name


def log_path(repository: Repository, name: str) -> Path:
    """The file of a log; raises `ValueError` for what is no name of one."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of a log: {name!r}")
    return repository.state / "qa" / "logs" / name[:2] / name
