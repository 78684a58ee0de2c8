"""A tree with a real shell, small enough to be committed by every test that enters a root."""

import os
import subprocess
import sys
from pathlib import Path

from hacktree.client.entering.holders import find_holder
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from support.sysroots import deploy
from support.trees import Directory, File, Spec, Symlink, make_commit

BUSYBOX = Path("/bin/busybox")
_APPLETS = (
    *("sh", "cat", "ls", "echo", "sleep", "id", "touch", "mkdir", "rm", "mount", "stat", "pwd"),
    *("env", "kill", "ps", "stty", "chown", "chmod", "base64", "tty", "test", "printf", "ln", "mv"),
)


def shell_tree(number: int = 1) -> dict[str | bytes, Spec]:
    """Busybox with what a session needs, an /etc, a /var; without /home and /sys on purpose."""
    assert BUSYBOX.exists(), "busybox is missing: install the package busybox-static (make system)"
    tree: dict[str | bytes, Spec] = {
        "bin/busybox": File(BUSYBOX.read_bytes(), 0o755),
        "usr/lib/os-release": f"VERSION={number}\n".encode(),
        "etc/hostname": b"tree\n",
        "etc/app.conf": b"colour = red\nsize = 3\n",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/conf.d/one": b"1\n",
        "etc/conf.d/two": b"2\n",
        "etc/link": Symlink(b"hostname"),
        "var/lib/app/state": f"from build {number}\n".encode(),
        f"var/lib/only-{number}/data": b"new\n",
        "proc": Directory(),
        "run": Directory(),
        "tmp": Directory(0o1777),
        "dev": Directory(),
        "root": Directory(0o700),
    }
    return tree | {f"bin/{name}": Symlink(b"busybox") for name in _APPLETS}


def commit_shell(sysroot: Sysroot, number: int = 1) -> ObjectId:
    """Commit the tree as build `number`."""
    return make_commit(
        sysroot.repository, shell_tree(number), time=1_700_000_000 + number, version=f"47.{number}"
    )


def deploy_shell(sysroot: Sysroot, number: int = 1) -> str:
    """Commit and deploy it; returns the root's name."""
    return deploy(sysroot, commit_shell(sysroot, number)).root


def require_root() -> None:
    """What mounts needs root, or a kernel and a sysroot that do without: these tests need root."""
    assert os.geteuid() == 0, "run the tests as root: this one mounts, and becomes other users"


def hacktree_command(sysroot: Sysroot, *words: str) -> list[str]:
    """A command line of the installed `hacktree`."""
    program = Path(sys.executable).with_name("hacktree")
    return [str(program), "--sysroot", str(sysroot.path), *words]


def hacktree(
    sysroot: Sysroot, *words: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run hacktree to its end, as whoever runs the tests."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SUDO_", "PKEXEC_"))}
    return subprocess.run(
        hacktree_command(sysroot, *words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**inherited, **variables},
    )


def enter(
    sysroot: Sysroot,
    *command: str,
    root: str = "current",
    cwd: Path | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a root."""
    return hacktree(sysroot, "enter", root, "--", *command, cwd=cwd, **variables)


def is_held(tag: str) -> bool:
    """Whether an /etc overlay stays mounted; a process that is being ended gets time to be."""
    return all(find_holder(tag) is not None for _ in range(2000))
