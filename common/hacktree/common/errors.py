"""The error families; each carries the exit status of the command it ends.

A concrete error is defined near the code that raises it. The families exist so that a caller can
tell "your input is wrong" from "the other side is wrong" from "this disk is damaged", and so that
exit statuses are the same everywhere (see docs/architecture.md, "Exit statuses").
"""

import errno
from typing import ClassVar, Final

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the operating system says when a disk, a quota or a table of inodes is full."""


class HacktreeError(Exception):
    """Something failed; `hint` says what to do next. Exit status 1."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(HacktreeError):
    """The caller's input is wrong: a bad name, a missing branch, a contradiction. Exit status 2."""

    exit_code = 2


class PeerError(HacktreeError):
    """The remote is unreachable, answered wrongly or served what it must not. Exit status 4."""

    exit_code = 4


class CorruptError(HacktreeError):
    """Local data does not match its name or its format. Exit status 5."""

    exit_code = 5


class BusyError(HacktreeError):
    """Somebody else holds the lock. Exit status 6."""

    exit_code = 6


class SpaceError(HacktreeError):
    """The disk can't hold it, or would fall below the reserve. Exit status 7."""

    exit_code = 7


class SystemFault(HacktreeError):
    """The operating system refused: permission, read-only file system, I/O error. Exit status 8."""

    exit_code = 8
