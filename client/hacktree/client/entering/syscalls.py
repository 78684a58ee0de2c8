"""Namespaces and mounts: system calls that Python 3.11 has no names for, beside those of replays.

Each raises OSError with the path it was about. Linux 5.12 is needed (mount_setattr).
"""

import ctypes
import os
import signal
from pathlib import Path
from typing import Final

_MNT_DETACH: Final = 2

# The same on every architecture: they are newer than the common table of numbers.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_RDONLY: Final = 1
_PR_SET_PDEATHSIG: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def _check(result: int, *about: object) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), " ".join(str(word) for word in about))
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def join_namespace(descriptor: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(descriptor, kind), "setns")


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends, however it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl")


def make_read_only(target: Path) -> None:
    """Make a mount, and every mount below it, read-only; whatever else limits them stays."""
    attributes = _MountAttributes(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    _check(
        _libc.syscall(
            _SYS_MOUNT_SETATTR,
            _AT_FDCWD,
            os.fsencode(target),
            _AT_RECURSIVE,
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        ),
        target,
    )


def clone_tree(path: Path | str, *, recursive: bool) -> int:
    """A detached copy of the mounts at (and below) `path`: a descriptor for `attach_tree`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), path)


def attach_tree(descriptor: int, target: Path) -> None:
    """Mount what `clone_tree` copied on `target`."""
    _check(
        _libc.syscall(
            _SYS_MOVE_MOUNT,
            descriptor,
            b"",
            _AT_FDCWD,
            os.fsencode(target),
            _MOVE_MOUNT_F_EMPTY_PATH,
        ),
        target,
    )


def pivot_into(directory: Path) -> None:
    """Make a mount point the root of this namespace and let go of the old one."""
    os.chdir(directory)
    try:
        _check(_libc.pivot_root(b".", b"."), directory)
    except OSError:
        # In an initramfs, or a chroot that is no mount point, there is nothing to pivot.
        os.chroot(".")
    else:
        _check(_libc.umount2(b".", _MNT_DETACH), directory)
    os.chdir("/")
