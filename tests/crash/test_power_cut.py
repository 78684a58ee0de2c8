"""The power goes while a build is pulled and deployed, rolled back, and deployed again.

Whatever of the writes since the disk's last flush reached it, the next start finds a whole root
live and an intact repository, and completes what was begun.
"""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from hacktree.client.recovery import recover
from hacktree.client.sysroot import Sysroot, hold_sysroot, open_sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.layout import Mode
from support.enterable import hacktree, require_root, shell_tree
from support.powercut import MAKE, hurrying, mounted, recorded_disk
from support.pulling import make_repository
from support.sysroots import assert_nothing_left_over, make_sysroot
from support.trees import make_commit

CUTS = {"ext4": 3, "xfs": 2}
"""In each command."""

SEED = int(os.environ.get("HACKTREE_SEED", "20261126"))

Manifest = dict[str, str]
"""By path in a root: a digest of content and attributes, or a link's target."""


def manifest(sysroot: Sysroot) -> Manifest:
    """All of the live root."""
    root = sysroot.link.resolve(strict=True)
    assert root.parent == sysroot.roots
    found = {}
    for directory, directories, names in os.walk(root):
        for name in directories + names:
            path = Path(directory, name)
            status = path.lstat()
            what = f"{status.st_mode:o} {status.st_uid} {status.st_gid}"
            if path.is_symlink():
                what += f" {os.readlink(path)}"
            elif path.is_file():
                what += f" {hashlib.sha256(path.read_bytes()).hexdigest()}"
            found[str(path.relative_to(root))] = what
    return found


def run(sysroot: Sysroot, *words: str) -> None:
    done = hacktree(sysroot, *words)
    assert done.returncode == 0, done.stderr


def add_changes(sysroot: Sysroot, directory: Path) -> None:
    """A config script and a layer."""
    script = directory / "10-colour"
    script.write_text("#!/bin/sh\necho blue >/etc/colour\nrm /etc/app.conf\n")
    script.chmod(0o755)
    run(sysroot, "config", "add", str(script))
    built = directory / "built"
    (built / "usr/lib").mkdir(parents=True)
    (built / "usr/lib/mine").write_bytes(os.urandom(100_000))
    run(sysroot, "layer", "add", "mine", str(built))


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_whatever_reached_the_disk_a_whole_root_is_live(tmp_path: Path, kind: str) -> None:
    require_root()
    farm = make_repository(tmp_path / "farm", Mode.ARCHIVE)
    make_commit(farm, shell_tree(1), version="47.1")
    with recorded_disk(kind, tmp_path) as disk:
        sysroot = make_sysroot(disk.place / "sysroot")
        (sysroot.repository.path / "config.toml").write_text('min-free-space = "0"\n')
        run(sysroot, "remote", "add", "farm", f"file://{farm.path}", "--unsigned")
        add_changes(sysroot, tmp_path)
        run(sysroot, "pull", "fastqa")
        make_commit(farm, shell_tree(2), version="47.2", time=1_700_000_100)
        subprocess.run(["sync", "-f", disk.place], check=True)
        disk.mark()
        live = [manifest(sysroot)]
        with hurrying(disk.place):
            for command in (["pull", "fastqa"], ["rollback"], ["deploy", "fastqa", "--replay"]):
                run(sysroot, *command)
                disk.mark()
                live.append(manifest(sysroot))
    assert live[0] == live[2] != live[1] == live[3]
    assert all("usr/lib/mine" in each and "etc/app.conf" not in each for each in live)
    for passed, image in disk.cuts(CUTS[kind], SEED):
        with mounted(image, kind, tmp_path / "after") as place:
            sysroot = open_sysroot(place / "sysroot")
            found = manifest(sysroot)
            assert found in live[passed : passed + 2], f"a cut in command {passed}, seed {SEED}"
            with hold_sysroot(sysroot):
                recover(sysroot)
            assert manifest(sysroot) in live[passed : passed + 2]
            assert fsck(sysroot.repository).intact
            assert main(["--sysroot", str(sysroot.path), "pull", "fastqa"]) == 0
            assert manifest(sysroot) == live[-1]
            assert_nothing_left_over(sysroot.path)
