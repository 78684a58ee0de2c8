"""What was changed by hand and left behind is listed, and comes back where a person wants it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hacktree.client.edits.edits import Edit, node_at, root_edits
from hacktree.client.edits.kept import MOST_KEPT, keep_copy, kept_copies
from hacktree.client.edits.places import etc_place, kept_directory
from hacktree.client.edits.restoring import RestoreError, find_copy
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from support.documents import commands_in
from support.enterable import commit_shell, deploy_shell, enter, hacktree_command, require_root
from support.sysroots import assert_nothing_left_over, deploy, make_sysroot
from support.trees import Spec, Symlink, make_commit

_EDIT = """
set -e
cd /etc
echo 'colour = blue' > app.conf
chmod 640 passwd
rm hostname link && ln -s '/some where/$x' link
mkdir -p new/deep && echo secret > new/deep/key && chmod 600 new/deep/key && chown 7:8 new/deep/key
rm -r conf.d && mkdir conf.d && echo 3 > conf.d/three
echo odd > "$(printf 'latin-\\351')"
"""
TREE: dict[str | bytes, Spec] = {"etc/app.conf": b"red\n", "etc/d/one": b"1", "etc/d/two": b"2"}


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    require_root()
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    return make_sysroot(tmp_path / "sysroot")


def new_root(sysroot: Sysroot, number: int, more: dict[str | bytes, Spec] | None = None) -> str:
    tree = {**TREE, "etc/build": b"%d" % number, **(more or {})}
    return deploy(sysroot, make_commit(sysroot.repository, tree)).root


def change(sysroot: Sysroot, root: str, files: dict[str, str]) -> Path:
    """Write files to /etc of a root, as a session does; returns the layer."""
    place = etc_place(sysroot, root)
    upper = place.upper
    for directory in (upper, place.work):
        directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (upper / name).parent.mkdir(parents=True, exist_ok=True)
        (upper / name).write_text(text)
    return upper


def by_path(sysroot: Sysroot, root: str) -> dict[bytes, Edit]:
    return {edit.path: edit for edit in root_edits(sysroot, root)}


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_everything_that_was_left_behind_comes_back(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contents, modes, owners, links, deletions, odd names; a session in the new root sees them."""
    old = deploy_shell(sysroot, 1)
    assert enter(sysroot, "sh", "-c", _EDIT).stderr == ""
    edits = root_edits(sysroot, old)
    new = deploy(sysroot, commit_shell(sysroot, 2)).root
    (copy,) = kept_copies(sysroot)
    listed = ask(capsys, "config", "kept")
    assert listed == [
        {
            "name": copy,
            "path": str(kept_directory(sysroot) / copy),
            "damaged": False,
            "root": old,
            "added": 5,
            "changed": 3,
            "removed": 3,
        }
    ]
    assert main(["config", "kept", "latest"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "M /etc/app.conf" in shown
    assert "D /etc/conf.d/one" in shown
    plan = ask(capsys, "config", "restore", "latest", "--dry-run")
    assert by_path(sysroot, new) == {}, "nothing was done"
    assert ask(capsys, "config", "restore", "latest") == plan
    assert isinstance(plan, dict)
    assert [change["path"] for change in plan["changes"]] == sorted(line[2:] for line in shown)
    restored = by_path(sysroot, new)
    assert {path: edit.new for path, edit in restored.items()} == {e.path: e.new for e in edits}
    seen = enter(sysroot, "sh", "-c", "cd /etc; cat app.conf new/deep/key conf.d/*; ls; touch me")
    assert seen.stdout.startswith("colour = blue\nsecret\n3\napp.conf\nconf.d\n")
    assert "hostname" not in seen.stdout
    assert main(["config", "restore", "latest"]) == 0
    assert f"/etc of {new} has all that already" in capsys.readouterr().out
    assert_nothing_left_over(sysroot.path)


def test_nothing_is_overwritten_that_a_person_was_not_told_of(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was changed there too is named, and nothing is done; asked for, a copy of it is kept."""
    old = new_root(sysroot, 1)
    upper = change(sysroot, old, {"app.conf": "mine\n", "d/one": "first\n", "swap": "file\n"})
    os.mknod(upper / "d/two", 0o020000, os.makedev(0, 0))
    os.mkfifo(upper / "fifo")
    new = new_root(sysroot, 2, {"etc/swap/inside": b"a directory by now"})
    change(sysroot, new, {"app.conf": "newer\n", "d/two": "kept\n"})
    before = by_path(sysroot, new)
    assert main(["config", "restore", "latest"]) == 2
    error = capsys.readouterr().err
    assert f"/etc/app.conf was changed by hand in {new}, too" in error
    assert f"/etc/d/two was changed by hand in {new}, too" in error
    assert f"/etc/swap is a directory in {new}" in error
    assert "--overwrite" in error
    assert by_path(sysroot, new) == before
    assert main(["config", "restore", "latest", "/etc/d/one"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "M /etc/d/one"
    assert by_path(sysroot, new).keys() == before.keys() | {b"etc/d/one"}
    copies = kept_copies(sysroot)
    first = next(name for name in copies if name.startswith(old))
    capsys.readouterr()
    assert main(["config", "restore", first, "--overwrite"]) == 0
    assert "/etc/fifo was no file, directory or link" in capsys.readouterr().err
    found = by_path(sysroot, new)
    assert (upper.parents[1] / new / "upper/app.conf").read_text() == "mine\n"
    assert found[b"etc/d/two"].new is None
    assert found[b"etc/swap"].new is not None
    assert found[b"etc/swap"].new.is_file
    newest = kept_copies(sysroot)[-1]
    assert newest.startswith(new)
    assert (kept_directory(sysroot) / newest / "etc/app.conf").read_text() == "newer\n"
    assert main(["config", "restore", "latest", "/etc/nosuch"]) == 2
    assert "has nothing at /etc/nosuch" in capsys.readouterr().err
    assert main(["config", "restore", "no-such-copy"]) == 2
    assert "config kept" in capsys.readouterr().err
    assert_nothing_left_over(sysroot.path)


def test_no_link_is_followed(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither one of the build nor one that a person made, even to overwrite; a way that somebody
    removed is not made again.
    """
    (tmp_path / "outside").mkdir()
    old = new_root(sysroot, 1)
    change(sysroot, old, {"d/one": "first\n", "e/one": "first\n", "f/one": "first\n"})
    link = Symlink(os.fsencode(tmp_path / "outside"))
    tree: dict[str | bytes, Spec] = {"etc/e": link, "etc/f/two": b"2", "etc/build": b"2"}
    new = deploy(sysroot, make_commit(sysroot.repository, tree)).root
    upper = change(sysroot, new, {})
    (upper / "d").symlink_to(tmp_path / "outside")
    os.mknod(upper / "f", 0o020000, os.makedev(0, 0))
    before = by_path(sysroot, new)
    for name, why in (("d", "is no directory"), ("e", "is no directory"), ("f", "was removed")):
        capsys.readouterr()
        assert main(["config", "restore", "latest", f"/etc/{name}/one", "--overwrite"]) == 2
        assert f"/etc/{name} {why}" in capsys.readouterr().err
    assert os.listdir(tmp_path / "outside") == []
    assert by_path(sysroot, new) == before


def test_nobody_may_be_in_the_root(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """What is mounted must not be written to from outside."""
    old = deploy_shell(sysroot, 1)
    change(sysroot, old, {"app.conf": "mine\n"})
    deploy_shell(sysroot, 2)
    session = subprocess.Popen(
        hacktree_command(sysroot, "enter", "--", "sh", "-c", "echo in; cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert session.stdout is not None
    assert session.stdout.readline() == "in\n"
    assert main(["config", "restore", "latest"]) == 6
    assert "Leave the root" in capsys.readouterr().err
    session.communicate("")
    assert main(["config", "restore", "latest"]) == 0


def test_the_copy_that_is_restored_is_not_the_one_that_goes(sysroot: Sysroot) -> None:
    """Though it is the oldest, and what is in its way is kept in one more."""
    old = new_root(sysroot, 1)
    for number in range(MOST_KEPT):
        change(sysroot, old, {"app.conf": f"{number}\n"})
        keep_copy(sysroot, old, root_edits(sysroot, old), 1_700_000_000 + number)
    new = new_root(sysroot, 2)
    oldest = kept_copies(sysroot)[0]
    change(sysroot, new, {"other": "mine\n"})
    assert main(["config", "restore", oldest]) == 0
    assert oldest in kept_copies(sysroot)
    assert node_at(etc_place(sysroot, new).upper, b"app.conf") is not None


def test_a_deploy_says_which_copy_goes(sysroot: Sysroot) -> None:
    """The oldest, when there is one more."""
    root = new_root(sysroot, 1)
    for number in range(MOST_KEPT):
        change(sysroot, root, {"app.conf": f"{number}\n"})
        keep_copy(sysroot, root, root_edits(sysroot, root), 1_700_000_000 + number)
    oldest = kept_copies(sysroot)[0]
    change(sysroot, root, {"app.conf": "newest\n"})
    build = make_commit(sysroot.repository, {**TREE, "etc/build": b"2"})
    notes = deploy(sysroot, build).notes
    assert [note for note in notes if note.endswith(f"gone: {oldest}")], notes
    assert oldest not in kept_copies(sysroot)


def test_a_damaged_copy_is_listed(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files are there; the error says where."""
    old = new_root(sysroot, 1)
    change(sysroot, old, {"app.conf": "mine\n"})
    new_root(sysroot, 2)
    (copy,) = kept_copies(sysroot)
    (kept_directory(sysroot) / copy / "changes.json").write_text("{")
    assert main(["config", "kept"]) == 0
    assert capsys.readouterr().out == f"{copy}\tdamaged\n"
    with pytest.raises(RestoreError, match="does not say") as caught:
        find_copy(sysroot, "latest")
    with pytest.raises(RestoreError, match="no kept copy ''"):
        find_copy(sysroot, "")  # As of an unset variable.
    assert "copy what you need" in caught.value.hint
    shutil.rmtree(kept_directory(sysroot) / copy)
    capsys.readouterr()
    assert main(["config", "kept"]) == 0
    assert capsys.readouterr().out == "no copies are kept\n"


def test_the_documented_commands(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/operations.md shows works as it is typed."""
    old = new_root(sysroot, 1)
    change(sysroot, old, {"app.conf": "mine\n"})
    new_root(sysroot, 2)
    for line in commands_in("Left behind"):
        assert main(line.split()[1:]) == 0
    assert "M /etc/app.conf\n" in capsys.readouterr().out
