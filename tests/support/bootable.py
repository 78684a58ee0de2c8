"""A small tree that boots: a distribution's real kernel, and busybox for all else."""

import functools
import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from support.servers import PROJECT
from support.trees import File, Spec, Symlink

BUSYBOX: Final = Path("/bin/busybox")

_DRIVERS: Final = re.compile(
    r"(virtio|virtio_(ring|pci(_\w+)?|blk|console)|ext4|jbd2|mbcache|crc16|(lib)?crc32c?\w*)\.ko.*"
)
_APPLETS: Final = ("sh", "cat", "grep", "id", "ls", "mount", "poweroff", "sleep", "test", "uname")


def bootable_tree() -> dict[str | bytes, Spec]:
    """It has what a shell script needs to look around, and nothing that starts by itself."""
    release, image, directory = _kernel()
    tree: dict[str | bytes, Spec] = {
        f"boot/vmlinuz-{release}": image.read_bytes(),
        "etc/version": b"seven\n",
        "bin/busybox": File(BUSYBOX.read_bytes(), 0o755),
    }
    tree |= {f"bin/{name}": Symlink(b"busybox") for name in _APPLETS}
    for where, _, names in os.walk(directory):
        for name in names:
            if name == "modules.builtin" or _DRIVERS.fullmatch(name):
                path = Path(where, name)
                inside = path.relative_to(directory)
                tree[f"usr/lib/modules/{release}/{inside}"] = path.read_bytes()
    return tree


def systemd_tree() -> dict[str | bytes, Spec]:
    """The same with this machine's systemd; the default target wants a unit that makes /run/up."""
    tree = bootable_tree()
    programs = [Path("/usr/lib/systemd") / name for name in ("systemd", "systemd-executor")]
    present = [path for path in programs if path.exists()]
    if not present:
        pytest.fail("this test boots systemd: install the package systemd")
    for path in {*present, *_libraries(present)}:
        tree[str(path).lstrip("/")] = File(path.read_bytes(), 0o755)
    units = Path("/usr/lib/systemd/system")
    for name in ("basic", "shutdown", "sysinit"):
        tree[f"{units}/{name}.target".lstrip("/")] = (units / f"{name}.target").read_bytes()
    tree[f"{units}/default.target".lstrip("/")] = b"[Unit]\nWants=up.service\nAfter=up.service\n"
    tree[f"{units}/up.service".lstrip("/")] = (
        # Slow, so that whoever doesn't wait for it is seen.
        b"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'sleep 1; echo up >/run/up'\n"
    )
    return tree


def _libraries(programs: list[Path]) -> set[Path]:
    found = set()
    for program in programs:
        done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)}
    return found


def kernel_module(name: str) -> bytes:
    """A module of the tree's kernel that the tree does not have."""
    found = next(_kernel()[2].rglob(f"{name}.ko*"))
    assert found.suffix == ".ko", f"{found} is compressed: use Debian's kernel (make system)"
    return found.read_bytes()


def kernel_release() -> str:
    """What `uname -r` says in the tree, once it is booted."""
    return _kernel()[0]


@functools.cache
def _kernel() -> tuple[str, Path, Path]:
    """Release, image, modules: those that tools/system-packages.sh fetched, or this machine's."""
    for top in (PROJECT / "build" / "kernel", Path("/")):
        for directory in sorted((top / "lib" / "modules").glob("*"), reverse=True):
            release = directory.name
            for image in (top / f"boot/vmlinuz-{release}", directory / "vmlinuz"):
                if os.access(image, os.R_OK):
                    return release, image, directory
    pytest.fail("these tests boot a real kernel: run `make system`, or install and read a kernel")
