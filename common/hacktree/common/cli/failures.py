"""From an exception to a sentence and an exit status."""

import errno
from typing import Final

import msgspec

from hacktree.common.errors import NO_SPACE, HacktreeError, SpaceError, SystemFault

INTERRUPTED: Final = 130

_HINTS: Final = {
    errno.EACCES: "Run it as a user who may, or as root.",
    errno.EPERM: "Run it as a user who may, or as root.",
    errno.EROFS: "The file system is mounted read-only: remount it, or choose another place.",
    errno.ENOSPC: "Free space, then run the same command again: it continues.",
    errno.EDQUOT: "Your disk quota is used up: free space, then run the same command again.",
    errno.EIO: "The disk reports an error: check the kernel log before you go on.",
    errno.EMFILE: "Too many open files: raise `ulimit -n`.",
}


class Failure(msgspec.Struct, frozen=True):
    """What to tell a person, and the status to exit with."""

    message: str
    hint: str
    exit_code: int


def describe_failure(error: Exception) -> Failure | None:
    """The failure that an expected error stands for; None for a bug, which deserves a traceback."""
    if isinstance(error, HacktreeError):
        return Failure(error.message, error.hint, error.exit_code)
    if isinstance(error, OSError) and error.errno is not None:
        family = SpaceError if error.errno in NO_SPACE else SystemFault
        where = f"{_name(error.filename)}: " if error.filename is not None else ""
        return Failure(f"{where}{error.strerror}", _HINTS.get(error.errno, ""), family.exit_code)
    return None


def _name(filename: object) -> str:
    return filename.decode("utf-8", "replace") if isinstance(filename, bytes) else str(filename)
