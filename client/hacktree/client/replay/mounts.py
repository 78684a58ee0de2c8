"""mount(2) and umount2(2), for code in a mount namespace of its own."""

import ctypes
import os
from pathlib import Path
from typing import Final

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
_MNT_DETACH: Final = 2

_KEPT_BY_REMOUNT: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC
"""Equal to statvfs's ST_ flags. A user namespace may not drop what its parent set."""

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path | str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    done = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags),
        os.fsencode(options),
    )  # fmt: skip
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"mount {kind or source} on {target}")


def unmount(target: Path | str) -> None:
    """umount2(2): fails while something uses it."""
    _unmount(target, 0)


def detach(target: Path | str) -> None:
    """Unmount what is on and below `target` from sight at once; the rest once nobody uses it."""
    _unmount(target, _MNT_DETACH)


def _unmount(target: Path | str, flags: int) -> None:
    if _libc.umount2(os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"unmount {target}")


def make_private() -> None:
    """Let no mount of this namespace appear outside."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def bind(source: Path | str, target: Path | str, flags: int = 0) -> None:
    """Show `source` at `target` too; MS_REC with what is mounted below it."""
    mount(os.fspath(source), target, "", MS_BIND | flags)


def bind_read_only(source: Path | str, target: Path | str) -> None:
    """Show `source` at `target`, where nothing can be written."""
    bind(source, target)
    kept = os.statvfs(target).f_flag & _KEPT_BY_REMOUNT
    mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)
