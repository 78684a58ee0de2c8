"""`hacktree try`: the live root with a directory on top, for one command."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hacktree.client.edits.places import etc_place
from hacktree.client.layers import trying
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from support.documents import commands_in
from support.enterable import (
    commit_shell,
    deploy_shell,
    hacktree,
    hacktree_command,
    require_root,
    shell_tree,
)
from support.layering import (
    make_library,
    make_program,
    make_system,
    write_project,
    write_tree,
)
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
    make_program(
        tmp_path / "mine/usr/bin/x", ["foo"], [library], "-Wl,--dynamic-linker=/usr/lib/ld"
    )
    done = try_it(sysroot, tmp_path / "mine", "echo here")
    assert (done.returncode, done.stdout) == (0, "here\n")
    assert "warning: libfoo.so.5 is needed by usr/bin/x of layer try" in done.stderr
    assert os.listdir(sysroot.repository.staging) == []


def test_what_can_not_be_tried_is_refused_before_anything_runs(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No live root, no directory, a file where the root has a directory."""
    mine = write_tree(tmp_path / "mine", {"usr/lib": b""})
    words = ["--sysroot", str(sysroot.path), "try"]
    assert main([*words, str(mine)]) == 2
    assert "no root is live" in capsys.readouterr().err
    deploy_shell(sysroot)
    assert main([*words, str(mine)]) == 2
    assert "usr/lib: a file here, a directory in gnomeos-" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "absent")]) == 2
    assert "is not a directory" in capsys.readouterr().err
    assert os.listdir(sysroot.repository.staging) == []


def test_the_commands_of_the_manual_work(sysroot: Sysroot, tmp_path: Path) -> None:
    """As docs/operations.md shows them: a real program runs with the library beside it."""
    deploy(sysroot, make_system(sysroot))
    project = write_project(tmp_path / "hello")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "HACKTREE_SYSROOT": str(sysroot.path)}
    shown = "\n".join(commands_in("Trying a build"))
    assert "hacktree try" in shown
    done = subprocess.run(
        ["sh", "-ec", shown], cwd=project, env=variables, check=True, stdout=subprocess.PIPE
    )
    assert done.stdout.splitlines()[-1] == b"hello"
    assert not (sysroot.link / "usr/bin/hello").exists()


def test_what_a_killed_trial_leaves_goes_with_the_next(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another trial leaves what a living one uses alone; `cleanup` takes what a dead one left."""
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
    assert main(["--sysroot", str(sysroot.path), "cleanup"]) == 0
    assert capsys.readouterr().out == "delete 1 directories of interrupted commits and trials\n"
    assert os.listdir(sysroot.repository.staging) == []


@pytest.mark.parametrize("moment", ["open", "try_lock"])
def test_a_trial_that_ends_by_itself_meanwhile_is_nobodys_to_remove(
    sysroot: Sysroot, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Between the listing and its lock."""
    place = sysroot.repository.staging / "try-1"
    place.mkdir()
    owner = os if moment == "open" else trying
    original = getattr(owner, moment)

    def ended_first(*args: object, **options: object) -> object:
        with suppress(FileNotFoundError):
            place.rmdir()
        return original(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, moment, ended_first)
        assert trying.remove_dead_trials(sysroot.repository) == 0
    assert os.listdir(sysroot.repository.staging) == []
