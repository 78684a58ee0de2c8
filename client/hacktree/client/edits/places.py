"""Where what is written in roots lies, below `.ht`.

etc/<root>/upper, work   what was written in /etc of that root: an overlay's upper layer
etc/.tmp-<root>          the same, being made
var                      /var of every root of this sysroot
var.new/                 what is being copied into it
kept/<root>-<date>/      a copy of what was written in /etc of a root
kept/.tmp-…              the same, being made
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.removal import TEMPORARY_PREFIX, delete_below
from hacktree.client.sysroot import Sysroot
from hacktree.common.repository.durable import make_directories, sync_directory
from hacktree.common.repository.locks import LockKind, hold_lock

SILENCE: Final = 1.0
"""Seconds after which a person is told what is waited for."""

_PATIENCE: Final = 30.0
"""Seconds; somebody else makes the directories of another root meanwhile."""


class EtcPlace(msgspec.Struct, frozen=True):
    """The overlay of one root's /etc. Its upper layer is written through mounts only."""

    directory: Path

    @property
    def upper(self) -> Path:
        """What was written."""
        return self.directory / "upper"

    @property
    def work(self) -> Path:
        """The kernel's own."""
        return self.directory / "work"


def etc_directory(sysroot: Sysroot) -> Path:
    """The directory of the overlays; perhaps not there yet."""
    return sysroot.repository.path / "etc"


def kept_directory(sysroot: Sysroot) -> Path:
    """The directory of kept copies; perhaps not there yet."""
    return sysroot.repository.path / "kept"


def var_directory(sysroot: Sysroot) -> Path:
    """/var of this sysroot; perhaps not there yet."""
    return sysroot.repository.path / "var"


def etc_place(sysroot: Sysroot, root: str) -> EtcPlace:
    """The overlay of `root`; perhaps not there yet."""
    return EtcPlace(etc_directory(sysroot) / root)


def prepare_etc(
    sysroot: Sysroot, root: str, waiting: Callable[[str], None] | None = None
) -> EtcPlace | None:
    """Make the overlay of `root` if it isn't there; None for a root without a directory /etc.

    Whole or not at all: the merged /etc takes its own owner and mode from the upper layer's.
    `waiting` is told for whom, when somebody else makes one for more than a second.
    """
    lower = sysroot.roots / root / "etc"
    try:
        status = os.lstat(lower)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    place = etc_place(sysroot, root)
    if place.directory.exists():
        return place
    top = etc_directory(sysroot)
    make_directories(sysroot.repository.path, Path("etc"), mode=0o700)
    with hold_lock(top, LockKind.EXCLUSIVE, timeout=_PATIENCE, waiting=waiting, silence=SILENCE):
        if not place.directory.exists():
            _make_place(top, root, status)
    return place


def _make_place(top: Path, root: str, status: os.stat_result) -> None:
    temporary = f"{TEMPORARY_PREFIX}{root}"
    if os.path.lexists(top / temporary):
        delete_below(top, temporary)
    made = EtcPlace(top / temporary)
    made.directory.mkdir(mode=0o700)
    made.work.mkdir(mode=0o700)
    made.upper.mkdir()
    if os.geteuid() == 0:
        os.chown(made.upper, status.st_uid, status.st_gid)
    made.upper.chmod(stat.S_IMODE(status.st_mode))
    sync_directory(made.directory)
    os.rename(made.directory, top / root)
    sync_directory(top)
