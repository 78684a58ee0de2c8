"""A small file system that can be filled to its last block, or to its last inode; root only."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path


class Disk(StrEnum):
    """A file system, and what of it gets used up."""

    EXT4 = "ext4"
    EXT4_INODES = "ext4-inodes"
    XFS = "xfs"
    BTRFS = "btrfs"


_MAKE = {
    Disk.EXT4: (32 << 20, ["mkfs.ext4", "-q", "-F", "-m", "0"]),
    Disk.EXT4_INODES: (32 << 20, ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "1024"]),
    Disk.XFS: (300 << 20, ["mkfs.xfs", "-q", "-f"]),
    Disk.BTRFS: (128 << 20, ["mkfs.btrfs", "-q", "-f"]),
}


@contextmanager
def small_disk(kind: Disk, directory: Path) -> Iterator[Path]:
    """A new one, mounted; yields where."""
    size, command = _MAKE[kind]
    assert shutil.which(command[0]), f"{command[0]} is missing (make system)"
    image, place = directory / "image", directory / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*command, image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill(kind: Disk, hoard: Path) -> None:
    """Use up what is free with files in the new directory `hoard`: nothing more can be written."""
    hoard.mkdir()
    if kind is not Disk.EXT4_INODES:
        _take_blocks(hoard / "large")
    number = 0
    while _is_room_for(hoard / f"{number}"):
        number += 1


def _take_blocks(path: Path) -> None:
    step, size = 64 << 20, 0
    with path.open("wb") as file:
        while step >= 4096:
            try:
                os.posix_fallocate(file.fileno(), size, step)
            except OSError as error:
                _require_full(error)
                step //= 2
            else:
                size += step
    os.sync()


def _is_room_for(path: Path) -> bool:
    """Write a new file, and find out."""
    try:
        with path.open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _require_full(error)
        return False
    return True


def _require_full(error: OSError) -> None:
    if error.errno != errno.ENOSPC:
        raise error
