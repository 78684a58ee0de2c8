"""What a person wrote in /etc survives a kill at any step of what goes on with it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.edits.edits import root_edits
from hacktree.client.edits.kept import kept_copies
from hacktree.client.edits.places import etc_place, kept_directory, var_directory
from hacktree.client.edits.restoring import restore
from hacktree.client.edits.var import prepare_var
from hacktree.client.recovery import recover
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import hold_sysroot, open_sysroot
from support.kill import every_kill
from support.sysroots import assert_nothing_left_over, deploy, make_sysroot
from support.trees import Spec, make_commit

REMOVE = """
import sys
from pathlib import Path
from hacktree.client.edits.removing import remove_root
from hacktree.client.sysroot import hold_sysroot, open_sysroot
sysroot = open_sysroot(Path(sys.argv[1]))
with hold_sysroot(sysroot):
    remove_root(sysroot, sys.argv[2])
"""
FILL = """
import sys
from pathlib import Path
from hacktree.client.edits.var import prepare_var
from hacktree.client.sysroot import open_sysroot
prepare_var(open_sysroot(Path(sys.argv[1])), sys.argv[2])
"""
RESTORE = """
import sys
from pathlib import Path
from hacktree.client.edits.restoring import restore
from hacktree.client.sysroot import open_sysroot
sysroot = open_sysroot(Path(sys.argv[1]))
restore(sysroot, *sys.argv[2:], (), 1_700_000_000, print, overwrite=True)
"""
EDIT = "years of work"


def copy(template: Path, to: Path) -> Path:
    subprocess.run(["rm", "-rf", to], check=True)
    subprocess.run(["cp", "-a", template, to], check=True)
    return to


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sysroot, and its previous root, in whose /etc something was written."""
    path = tmp_path_factory.mktemp("edited") / "sysroot"
    sysroot = make_sysroot(path)
    for number in (1, 2):
        deploy(sysroot, make_commit(sysroot.repository, {"etc/build": b"%d" % number}))
    root = read_roots(sysroot).previous
    assert root is not None
    place = etc_place(sysroot, root)
    (place.upper / "app").mkdir(parents=True)
    place.work.mkdir()
    (place.upper / "app/thesis").write_text(EDIT)
    return path, root


@pytest.mark.parametrize("call", ["?rename,?renameat,?renameat2", "?unlink,?unlinkat"])
def test_removing_an_edited_root_killed_at_every_call(
    edited: tuple[Path, str], tmp_path: Path, call: str
) -> None:
    """The edit is in the overlay or in a whole copy; recovery leaves exactly one, of one kind."""
    template, root = edited
    place = copy(template, tmp_path / "place")
    command = [sys.executable, "-B", "-c", REMOVE, str(place), root]
    for _ in every_kill(command, call):
        sysroot = open_sysroot(place)
        overlay = etc_place(sysroot, root).upper / "app/thesis"
        copies = [kept_directory(sysroot) / name for name in kept_copies(sysroot)]
        assert all((one / "etc/app/thesis").read_text() == EDIT for one in copies)
        assert copies or overlay.read_text() == EDIT
        with hold_sysroot(sysroot):
            recover(sysroot)
        assert_nothing_left_over(place)
        assert overlay.exists() == (root in read_roots(sysroot).records)
        assert len(kept_copies(sysroot)) <= 1
        copy(template, place)


def test_restoring_killed_at_every_call(tmp_path: Path) -> None:
    """Each path is as before or restored whole, and what it replaces is in a copy; the same command
    completes it.
    """
    template = tmp_path / "template"
    sysroot = make_sysroot(template)
    tree: dict[str | bytes, Spec] = {"etc/gone": b"1", "etc/conf": b"2", "etc/d/in": b"3"}
    roots = []
    for number in (1, 2):
        built = make_commit(sysroot.repository, {**tree, "etc/build": b"%d" % number})
        roots.append(deploy(sysroot, built).root)
        upper = etc_place(sysroot, roots[-1]).upper
        (upper / "new/deep").mkdir(parents=True)
        etc_place(sysroot, roots[-1]).work.mkdir()
        (upper / "conf").write_text(f"{EDIT} {number}")
        if number == 1:
            (upper / "new/deep/file").write_text(EDIT)
            os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
            (upper / "d").write_text("a file by now")
    wanted = {edit.path: edit.new for edit in root_edits(sysroot, roots[0])}
    (name,) = kept_copies(sysroot)
    place = copy(template, tmp_path / "place")
    command = [sys.executable, "-B", "-c", RESTORE, str(place), name, roots[1]]
    for _ in every_kill(command, "?rename,?renameat,?renameat2,?mknod,mknodat"):
        sysroot = open_sysroot(place)
        upper = etc_place(sysroot, roots[1]).upper
        kept = [one for one in kept_copies(sysroot) if one.startswith(roots[1])]
        if kept:
            replaced = (kept_directory(sysroot) / kept[0] / "etc/conf").read_text()
            assert replaced == f"{EDIT} 2"
            assert (upper / "conf").read_text() in (f"{EDIT} 1", f"{EDIT} 2")
        else:
            assert (upper / "conf").read_text() == f"{EDIT} 2", "nothing is done without"
        restore(sysroot, name, roots[1], (), 1_700_000_000, print, overwrite=True)
        assert {edit.path: edit.new for edit in root_edits(sysroot, roots[1])} == wanted
        assert_nothing_left_over(place)
        copy(template, place)


@pytest.mark.parametrize("call", ["?rename,?renameat,?renameat2", "?mkdir,mkdirat"])
def test_filling_var_killed_at_every_call(tmp_path: Path, call: str) -> None:
    """No directory is ever half-filled: the next filling completes all, and touches nothing."""
    template = tmp_path / "template"
    sysroot = make_sysroot(template)
    tree: dict[str | bytes, Spec] = {
        f"var/lib/{name}/{part}": part.encode() for name in "ab" for part in ("one", "two")
    }
    root = deploy(sysroot, make_commit(sysroot.repository, {**tree, "etc/x": b""})).root
    var = var_directory(sysroot)
    (var / "lib/a").mkdir(parents=True)
    (var / "lib/a/mine").write_text(EDIT)
    (sysroot.repository.path / "var.new/rest").mkdir(parents=True)
    place = copy(template, tmp_path / "place")
    command = [sys.executable, "-B", "-c", FILL, str(place), root]
    for _ in every_kill(command, call):
        sysroot = open_sysroot(place)
        found = var_directory(sysroot) / "lib/b"
        assert not found.exists() or sorted(p.name for p in found.iterdir()) == ["one", "two"]
        prepare_var(sysroot, root)
        assert sorted(p.name for p in found.iterdir()) == ["one", "two"]
        assert [p.name for p in (var_directory(sysroot) / "lib/a").iterdir()] == ["mine"]
        assert list((sysroot.repository.path / "var.new").iterdir()) == []
        copy(template, place)
