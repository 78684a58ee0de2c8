"""`hacktree try`: the live root with a directory on top, for one command."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from hacktree.client.edits.places import etc_place
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from support.enterable import (
    commit_shell,
    deploy_shell,
    hacktree,
    hacktree_command,
    require_root,
    shell_tree,
)
from support.layering import make_library, make_program, write_tree
from support.sysroots import deploy, make_sysroot
from support.trees import make_commit


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    require_root()
    return make_sysroot(tmp_path / "sysroot")


def try_it(sysroot: Sysroot, directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in the trial."""
    return hacktree(sysroot, "try", str(directory), "--", "sh", "-c", script)


def everything(path: Path) -> set[tuple[str, int, int]]:
    """Every path below, with inode and size: what a trial must leave as it was."""
    return {
        (str(found), found.lstat().st_ino, found.lstat().st_size)
        for found in path.rglob("*")
        if found.is_file() and "needs" not in found.parts
    }


def test_a_trial_shows_the_directory_on_top_and_leaves_nothing(
    sysroot: Sysroot, tmp_path: Path
) -> None:
    """New and replaced files, in /etc too, over layers and what was written by hand there."""
    build = commit_shell(sysroot)
    layer = write_tree(tmp_path / "layer", {"usr/share/layer": b"layer\n"})
    assert main(["--sysroot", str(sysroot.path), "layer", "add", "one", str(layer)]) == 0
    deploy(sysroot, build)
    root = sysroot.link.resolve()
    by_hand = "echo by hand > /etc/mine"
    assert hacktree(sysroot, "enter", "--", "sh", "-c", by_hand).returncode == 0
    before = everything(sysroot.path)
    mine = {
        "usr/share/layer": b"trial\n",
        "usr/share/new": b"new\n",
        "etc/app.conf": b"colour = blue\n",
        "etc/conf.d/three": b"3\n",
    }
    script = (
        "cat /usr/share/layer /usr/share/new /etc/app.conf /etc/mine; ls /etc/conf.d; "
        "echo x > /usr/share/written; echo x > /etc/written; exit 7"
    )
    done = try_it(sysroot, write_tree(tmp_path / "mine", mine), script)
    assert done.stdout.splitlines() == [
        *("trial", "new", "colour = blue", "by hand", "one", "three", "two"),
    ]  # fmt: skip
    assert (done.returncode, done.stderr) == (7, "")
    assert everything(sysroot.path) == before
    assert os.listdir(sysroot.repository.staging) == []
    assert sysroot.link.resolve() == root
    assert not (etc_place(sysroot, root.name).upper / "written").exists()


def test_a_trial_warns_of_what_does_not_fit(sysroot: Sysroot, tmp_path: Path) -> None:
    """The command runs nevertheless; a file for a directory is refused before."""
    build = make_commit(sysroot.repository, {**shell_tree(), "usr/lib/ld": b""})
    deploy(sysroot, build)
    library = make_library(tmp_path / "libfoo.so", "libfoo.so.5", ["foo"])
    make_program(tmp_path / "mine/usr/bin/x", ["foo"], [library], "-Wl,--dynamic-linker=/usr/lib/ld")
    done = try_it(sysroot, tmp_path / "mine", "echo here")
    assert (done.returncode, done.stdout) == (0, "here\n")
    assert "warning: libfoo.so.5 is needed by usr/bin/x of layer try" in done.stderr
    refused = try_it(sysroot, write_tree(tmp_path / "wrong", {"usr/lib": b""}), "echo here")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "usr/lib: a file here, a directory in gnomeos-" in refused.stderr
    absent = try_it(sysroot, tmp_path / "absent", "echo here")
    assert (absent.returncode, "is not a directory" in absent.stderr) == (2, True)
    assert os.listdir(sysroot.repository.staging) == []


def test_without_a_live_root_there_is_nothing_to_try_on(sysroot: Sysroot, tmp_path: Path) -> None:
    done = try_it(sysroot, write_tree(tmp_path / "mine", {"x": b""}), "true")
    assert (done.returncode, "no root is live" in done.stderr) == (2, True)


def test_what_a_killed_trial_leaves_goes_with_the_next(sysroot: Sysroot, tmp_path: Path) -> None:
    """Its root can't be deleted while it runs; then neither mounts nor files hold on to it."""
    deploy_shell(sysroot)
    mine = write_tree(tmp_path / "mine", {"usr/share/x": b"x"})
    command = hacktree_command(
        sysroot, "try", str(mine), "--", "sh", "-c", "echo ready; exec sleep 1000"
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == "ready\n"
        assert len(os.listdir(sysroot.repository.staging)) == 1
        during = try_it(sysroot, mine, "cat /usr/share/x")
        assert during.stdout == "x"
        assert len(os.listdir(sysroot.repository.staging)) == 1
        session.send_signal(signal.SIGKILL)
        assert session.stdout.read() == ""
    done = hacktree(sysroot, "cleanup")
    assert done.stdout == "delete 1 directories of interrupted commits and trials\n"
    assert os.listdir(sysroot.repository.staging) == []
