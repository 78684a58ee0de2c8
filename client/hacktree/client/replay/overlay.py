"""The overlay that a step sees as the root, and what is mounted in it.

Below it, topmost first: the upper layers of the steps before, the checkout, and a skeleton with
the mount points that the tree may lack. Layers are named by short links of one directory, since
mount(2) takes no more than a page of options. What is wanted of the kernel:

- redirect_dir=nofollow, metacopy=off: every changed file and directory is whole in the upper layer;
- index=off: changing one of several hard links below changes that name only, not its twins;
- volatile: no sync(2) within; whoever keeps the upper layer syncs it.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.removal import mounts_below
from hacktree.client.replay.mounts import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    bind,
    bind_read_only,
    detach,
    mount,
    unmount,
)
from hacktree.client.replay.namespaces import NamespaceRefusedError, is_refusal
from hacktree.client.replay.xattrs import copy_directory_attributes
from hacktree.common.errors import UserError

MAX_LAYERS: Final = 500
"""OVL_MAX_STACK of the kernel."""

PREVIOUS: Final = "run/hacktree/previous"
"""Where a step finds the root that is live, below the root that it changes."""

_OPTIONS: Final = "redirect_dir=nofollow,index=off,metacopy=off,xino=off,volatile"
_SKELETON: Final = ("dev", "proc", "run", "sys", "tmp")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
_PROTECTED_PROC: Final = ("sys", "sysrq-trigger", "irq", "bus")
"""What would change the machine, as `sysctl --system` in a package's script."""


class TooManyLayersError(UserError):
    """The kernel stacks no more."""


class Layers(msgspec.Struct, frozen=True):
    """A place for an overlay: `lowers` topmost first, the checkout last; `scratch` is empty."""

    scratch: Path
    lowers: Sequence[Path]

    @property
    def upper(self) -> Path:
        """What is written."""
        return self.scratch / "upper"

    @property
    def work(self) -> Path:
        """The kernel's own."""
        return self.scratch / "work"

    @property
    def merged(self) -> Path:
        """Where the overlay is mounted."""
        return self.scratch / "merged"

    @property
    def links(self) -> Path:
        """Links to the lower layers, and the skeleton."""
        return self.scratch / "lower"

    def make(self) -> None:
        """Make the directories, outside of any namespace."""
        if len(self.lowers) >= MAX_LAYERS:
            raise TooManyLayersError(
                f"{len(self.lowers)} layers are more than the kernel stacks ({MAX_LAYERS - 1})",
                hint="Merge config scripts or layers into fewer.",
            )
        for directory in (self.upper, self.work, self.merged, self.links):
            directory.mkdir()
        for number, lower in enumerate(self.lowers):
            (self.links / f"{number:x}").symlink_to(lower)
        for name in _SKELETON:
            (self.links / "skeleton" / name).mkdir(parents=True)
        # The upper layer's own directory is the root directory that a step sees.
        copy_directory_attributes(self.lowers[0], self.upper)


def mount_overlay(layers: Layers) -> None:
    """Mount it. Raises `NamespaceRefusedError` where the kernel or the file system can't."""
    names = [f"{number:x}" for number in range(len(layers.lowers))]
    options = f"lowerdir={':'.join([*names, 'skeleton'])},upperdir=../upper,workdir=../work"
    own = "" if os.geteuid() == 0 and _is_initial_user_namespace() else ",userxattr"
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(layers.links)
    try:
        mount("overlay", layers.merged, "overlay", 0, f"{options},{_OPTIONS}{own}")
    except OSError as error:
        if not is_refusal(error):
            raise
        raise NamespaceRefusedError(
            f"can't mount an overlay over {layers.lowers[-1].name}: {error.strerror}",
            hint="`dmesg` may say more. Needed: Linux 5.11 or newer with overlayfs, and a sysroot "
            "that is not on an overlay, NFS or FAT itself.",
        ) from error
    finally:
        os.fchdir(before)
        os.close(before)


def _is_initial_user_namespace() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def mount_inside(root: Path, previous: Path | None) -> None:
    """Mount what programs need: /proc, /sys, harmless devices, empty /run and /tmp.

    A place that is no directory in the root, as a link, is left alone.
    """
    for name, mode in (("run", "0755"), ("tmp", "1777"), ("dev", "0755")):
        if _is_directory(root / name):
            mount("tmpfs", root / name, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}")
    if _is_directory(root / "dev"):
        _fill_dev(root / "dev")
    if _is_directory(root / "proc"):
        mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        for name in _PROTECTED_PROC:
            if (root / "proc" / name).exists():
                bind_read_only(root / "proc" / name, root / "proc" / name)
    if _is_directory(root / "sys"):
        _mount_sys(root / "sys")
    if previous is not None and _is_directory(root / "run"):
        (root / PREVIOUS).mkdir(parents=True)
        bind_read_only(previous, root / PREVIOUS)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _fill_dev(dev: Path) -> None:
    for name in _DEVICES:
        if os.path.exists(f"/dev/{name}"):
            (dev / name).touch()
            bind(f"/dev/{name}", dev / name)
    for name, target in _DEVICE_LINKS:
        (dev / name).symlink_to(target)
    (dev / "shm").mkdir()
    (dev / "shm").chmod(0o1777)


def _mount_sys(place: Path) -> None:
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    try:
        mount("sysfs", place, "sysfs", flags)
    except OSError as error:
        # A user namespace may only show what its parent mounted.
        if error.errno != errno.EPERM:
            raise
        bind("/sys", place, MS_REC)


def unmount_all(layers: Layers) -> None:
    """Unmount it and all that is in it: no process may be left that uses it."""
    while below := mounts_below(layers.merged)[1:]:
        # With what is below: a user namespace may not take /sys apart.
        detach(os.fsdecode(below[0]))
    unmount(layers.merged)
