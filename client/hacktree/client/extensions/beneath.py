"""Writing below a root that may hold any symbolic link: none is followed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def open_beneath(root: Path, relative: str) -> Iterator[int]:
    """A descriptor of the directory `root/relative`, made where it isn't there, mode 0755.

    Raises `OSError` (ELOOP, ENOTDIR) where a component is a link or no directory.
    """
    descriptor = os.open(root, _DIRECTORY)
    try:
        for name in relative.split("/"):
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=descriptor)
            below = os.open(name, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def replace_file(directory: int, name: str, data: bytes) -> None:
    """A new file `name` with mode 0644; one that was there is replaced, never written to."""
    temporary = f".{name}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, _NEW, 0o644, dir_fd=directory)
    with open(descriptor, "wb") as stream:
        stream.write(data)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
