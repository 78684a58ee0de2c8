"""Opening a regular file below a directory without following a symbolic link on the way.

Each component is opened relative to the descriptor of the one before, with O_NOFOLLOW, so there is
no moment between a check and its use. The directory itself may be reached through links: its path
is its owner's choice.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO for reading would wait for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotRegularError(OSError):
    """The name is there, but it is no regular file."""


def open_beneath(directory: Path, components: Sequence[str]) -> tuple[int, os.stat_result]:
    """A read descriptor of the regular file `directory`/`components`, and its status.

    The caller closes the descriptor. Raises `NotRegularError` for anything but a regular file and
    `OSError` as the system reports it; a symbolic link is ELOOP or ENOTDIR.
    """
    parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for component in components[:-1]:
            child = os.open(component, _DIRECTORY, dir_fd=parent)
            os.close(parent)
            parent = child
        descriptor = os.open(components[-1], _FILE, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError(f"{'/'.join(components)} is not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status
