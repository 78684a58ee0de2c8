"""A small tree whose scripts can run: a static busybox with its names."""

from pathlib import Path
from typing import Final

from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from support.trees import Directory, File, Spec, Symlink, make_commit

BUSYBOX: Final = Path("/bin/busybox")
_NAMES: Final = (
    "cat", "chmod", "cp", "echo", "env", "grep", "id", "ln", "ls", "mkdir", "mv", "readlink", "rm",
    "sed", "sh", "sleep", "test", "touch", "true",
)  # fmt: skip


def make_runnable_build(
    sysroot: Sysroot, number: int, more: dict[str | bytes, Spec] | None = None
) -> ObjectId:
    """Commit a build in which `/bin/sh` scripts run, with the files in `more`."""
    assert BUSYBOX.exists(), "busybox-static is missing: tools/system-packages.sh tests"
    tree: dict[str | bytes, Spec] = {
        "usr/lib/os-release": f"VERSION={number}\n".encode(),
        "usr/bin/busybox": File(BUSYBOX.read_bytes(), 0o755),
        **{f"usr/bin/{name}": Symlink(b"busybox") for name in _NAMES},
        "bin": Symlink(b"usr/bin"),
        **{name: Directory() for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp")},
        **(more or {}),
    }
    return make_commit(
        sysroot.repository, tree, time=1_700_000_000 + number, version=f"47.{number}"
    )
