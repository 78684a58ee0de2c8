"""Making what an upper layer says true of a root: by replacing files, never by writing to one.

Files of the root are inodes of the repository. Those of the layer are linked, since it is kept for
the next root; then nothing may write to them either, in any root. Directories belong to the root
alone.
"""

import os
import stat
from pathlib import Path

import msgspec

from hacktree.client.removal import delete_entry
from hacktree.client.replay.upper import is_opaque
from hacktree.client.replay.xattrs import OPEN_DIRECTORY, apply_directory_attributes


class Materialised(msgspec.Struct):
    """What was done to a root."""

    linked: int = 0
    deleted: int = 0


def materialise(upper: Path, root: Path) -> Materialised:
    """Apply a sealed layer to the root; nothing is mounted over either.

    Stopped midway, the root is to be thrown away. Follows no links.
    """
    done = Materialised()
    source = os.open(upper, OPEN_DIRECTORY)
    try:
        target = os.open(root, OPEN_DIRECTORY)
        try:
            _merge(source, target, done)
        finally:
            os.close(target)
    finally:
        os.close(source)
    return done


def _merge(source: int, target: int, done: Materialised) -> None:
    with os.scandir(source) as scanned:
        entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in scanned]
    for name, status in entries:
        if stat.S_ISDIR(status.st_mode):
            _merge_directory(source, target, name, done)
        elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            delete_entry(target, name)
            done.deleted += 1
        else:
            delete_entry(target, name)
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            done.linked += 1
    apply_directory_attributes(source, target)


def _merge_directory(source: int, target: int, name: str, done: Materialised) -> None:
    below = os.open(name, OPEN_DIRECTORY, dir_fd=source)
    try:
        if is_opaque(below) or not _is_directory(target, name):
            delete_entry(target, name)
            os.mkdir(name, 0o700, dir_fd=target)
        place = os.open(name, OPEN_DIRECTORY, dir_fd=target)
        try:
            _merge(below, place, done)
        finally:
            os.close(place)
    finally:
        os.close(below)


def _is_directory(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
