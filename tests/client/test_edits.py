"""What is changed by hand in /etc of a root: shown, made into a script, never lost silently."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from hacktree.client.edits.capture import CaptureError, render_script, select_edits
from hacktree.client.edits.edits import Edit, EditKind, find_edits, node_at, root_edits
from hacktree.client.edits.kept import MOST_KEPT, keep_copy, kept_copies, read_kept
from hacktree.client.edits.places import etc_place, kept_directory
from hacktree.client.edits.removing import list_leftovers
from hacktree.client.edits.treecopy import OPEN_DIRECTORY, copy_directory
from hacktree.client.keeping import PreviousPolicy, undeploy_root
from hacktree.client.recovery import recover
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from support.documents import commands_in
from support.enterable import commit_shell, deploy_shell, enter, hacktree, require_root
from support.sysroots import assert_nothing_left_over, deploy, make_sysroot

_ODD = "a 'b\"$(touch owned)\nc"
_EDIT = """
set -e
cd /etc
echo 'colour = blue' > app.conf
echo 'END' > here && printf 'no line end' > short && printf '\\377\\000' > binary && : > empty
rm hostname link && ln -s '/some where/$x' link
mkdir -p new/deep && echo secret > new/deep/key && chmod 600 new/deep/key && chown 7:8 new/deep/key
rm -r conf.d && mkdir conf.d && echo 3 > conf.d/three
chmod 640 passwd
touch unchanged && rm unchanged
echo odd > "$1" && echo odd > "$(printf 'latin-\\351')"
"""


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    require_root()
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    return make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")


def changed_by_hand(sysroot: Sysroot) -> str:
    """A root in whose /etc a person did all there is to do; returns its name."""
    root = deploy_shell(sysroot, 1)
    done = enter(sysroot, "sh", "-c", _EDIT, "sh", _ODD)
    assert (done.returncode, done.stderr) == (0, "")
    return root


def test_changes_are_shown_and_captured_for_every_new_root(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """`config diff` names each; the script of `config capture` makes the next root's /etc equal."""
    root = changed_by_hand(sysroot)
    assert main(["config", "diff", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    changes = {change["path"]: change for change in document["changes"]}
    assert document["root"] == root
    assert {path: change["change"] for path, change in changes.items()} == {
        "/etc/a 'b\"$(touch owned)\\nc": "added",
        "/etc/app.conf": "changed",
        "/etc/binary": "added",
        "/etc/conf.d/one": "removed",
        "/etc/conf.d/three": "added",
        "/etc/conf.d/two": "removed",
        "/etc/empty": "added",
        "/etc/here": "added",
        "/etc/hostname": "removed",
        "/etc/latin-\\xe9": "added",
        "/etc/link": "changed",
        "/etc/new": "added",
        "/etc/new/deep": "added",
        "/etc/new/deep/key": "added",
        "/etc/passwd": "changed",
        "/etc/short": "added",
    }
    assert "-colour = red\n-size = 3\n+colour = blue\n" in changes["/etc/app.conf"]["diff"]
    assert changes["/etc/binary"]["diff"] is None
    assert (changes["/etc/passwd"]["old"]["mode"], changes["/etc/passwd"]["new"]["mode"]) == (
        "0644",
        "0640",
    )
    assert main(["config", "diff"]) == 0
    shown = capsys.readouterr().out
    assert "M /etc/passwd\n    mode 0644 -> 0640\n" in shown
    assert "    link to hostname -> /some where/$x\n" in shown

    assert main(["config", "capture", "--name", "50-mine"]) == 0
    script = sysroot.path / "etc/hacktree/config.d/50-mine"
    assert stat.S_IMODE(script.stat().st_mode) == 0o700, "a secret is in it"
    edits = root_edits(sysroot, root)
    result = deploy(sysroot, commit_shell(sysroot, 2))
    for edit in edits:
        assert node_at(sysroot.roots / result.root, edit.path) == edit.new, edit.path
    assert not (sysroot.roots / result.root / "etc/owned").exists()
    assert not any("by hand" in note for note in result.notes), "nothing stays behind"


def test_a_deploy_names_what_it_leaves_behind_and_keeps_a_copy(sysroot: Sysroot) -> None:
    """Once for the same changes; removing the root later keeps no second one."""
    root = changed_by_hand(sysroot)
    result = deploy(sysroot, commit_shell(sysroot, 2))
    (note,) = [note for note in result.notes if "by hand" in note]
    assert f"{result.root} goes without what was changed by hand in {root}: /etc/a 'b" in note
    assert "and 11 more" in note
    (copy,) = kept_copies(sysroot)
    assert str(kept_directory(sysroot) / copy) in note
    kept = read_kept(kept_directory(sysroot) / copy)
    assert kept is not None
    assert kept.removed == ["/etc/conf.d/one", "/etc/conf.d/two", "/etc/hostname"]
    key = kept_directory(sysroot) / copy / "etc/new/deep/key"
    assert key.read_text() == "secret\n"
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_uid) == (0o600, 7)
    undeploy_root(sysroot, root, PreviousPolicy.REMOVE)
    assert kept_copies(sysroot) == [copy]
    assert not etc_place(sysroot, root).directory.exists()
    assert_nothing_left_over(sysroot.path)


def test_the_documented_commands(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/operations.md shows works as it is typed."""
    deploy_shell(sysroot, 1)
    deploy_shell(sysroot, 2)
    shown = [hacktree(sysroot, *line.split()[1:]) for line in commands_in("Inside a root")]
    assert [done.returncode for done in shown] == [0, 0, 0]
    assert shown[1].stdout == "VERSION=1\n"
    assert enter(sysroot, "sh", "-c", "echo size = 4 >> /etc/app.conf").returncode == 0
    printed = []
    for line in commands_in("Changed by hand"):
        assert main(line.split()[1:]) == 0
        printed.append(capsys.readouterr().out)
    assert "+size = 4\n" in printed[0]
    assert "nothing was changed" in printed[1]
    assert printed[2].startswith("#!/bin/sh\n")
    script = sysroot.path / "etc/hacktree/config.d/50-mine"
    assert script.read_text() == printed[2], "and that is what was added"


def test_an_overlay_whose_root_is_gone_is_copied_before_it_goes(sysroot: Sysroot) -> None:
    """Whoever deleted the root by hand loses no edit; equal copies are made once."""
    root = deploy_shell(sysroot, 1)
    place = etc_place(sysroot, root)
    place.upper.mkdir(parents=True)
    (place.upper / "mine").write_text("work")
    keep_copy(sysroot, root, root_edits(sysroot, root), 1_700_000_000)
    (sysroot.roots / root).rename(sysroot.path / "elsewhere")
    assert list_leftovers(sysroot) == [place.directory]
    assert recover(sysroot) == []
    assert not place.directory.exists()
    assert kept_copies(sysroot) == [f"{root}-20231114T221320Z"]


def test_the_oldest_copies_go(sysroot: Sysroot) -> None:
    """Their number is bounded, and what goes is the oldest."""
    root = deploy_shell(sysroot, 1)
    place = etc_place(sysroot, root)
    place.upper.mkdir(parents=True)
    for number in range(MOST_KEPT + 3):
        (place.upper / "mine").write_text(f"{number}")
        keep_copy(sysroot, root, root_edits(sysroot, root), 1_700_000_000 + number)
    names = kept_copies(sysroot)
    assert len(names) == MOST_KEPT
    kept = [(kept_directory(sysroot) / name / "etc/mine").read_text() for name in names]
    assert kept == [str(number) for number in range(3, MOST_KEPT + 3)]


def test_links_and_other_things_in_a_layer_are_not_followed(tmp_path: Path) -> None:
    """A layer that points elsewhere, or holds what is no file, is described, not read."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for directory in (upper, lower):
        directory.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("of the host")
    (upper / "dir").symlink_to(tmp_path / "secret")
    os.mkfifo(upper / "fifo")
    (lower / "dir").mkdir()
    (lower / "dir/file").write_text("of the build")
    edits = find_edits(upper, lower)
    assert [(edit.path, edit.kind) for edit in edits] == [
        (b"etc/dir", EditKind.CHANGED),
        (b"etc/dir/file", EditKind.REMOVED),
        (b"etc/fifo", EditKind.ADDED),
    ]
    captured = render_script("root", edits, upper)
    assert captured.paths == (b"etc/dir",)
    assert captured.notes == ("/etc/fifo is a special file: left out",)
    assert b"of the host" not in captured.script


def test_what_goes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may be at work in the root: a deploy that looks at it fails for no such reason."""
    layer, target = tmp_path / "layer", tmp_path / "target"
    target.mkdir()

    def fill() -> None:
        (layer / "d").mkdir(parents=True, exist_ok=True)
        for name in ("a", "b", "d/e"):
            (layer / name).write_text(name)

    def remove(status: os.stat_result) -> bool:
        shutil.rmtree(layer / "d", ignore_errors=True)
        (layer / "b").unlink(missing_ok=True)
        return False

    fill()
    source, made = (os.open(place, OPEN_DIRECTORY) for place in (layer, target))
    copy_directory(source, made, skip=remove)
    os.close(source)
    os.close(made)
    assert os.listdir(target) == ["a"]
    fill()
    monkeypatch.setattr("hacktree.client.edits.edits.is_whiteout", remove)
    assert [edit.path for edit in find_edits(layer, None)] == [b"etc/a"]


def test_what_was_not_changed_is_not_captured(tmp_path: Path) -> None:
    """A wrong path is an error, and so is what a script can't hold."""
    (tmp_path / "big").write_bytes(b"x" * 9_000_000)
    edits = find_edits(tmp_path, None)
    assert select_edits(edits, ["/etc"]) == edits
    with pytest.raises(CaptureError, match="nothing was changed at /etc/bi"):
        select_edits(edits, ["/etc/bi"])
    with pytest.raises(CaptureError, match="/etc/big alone 9000000"):
        render_script("root", edits, tmp_path)
    with pytest.raises(CaptureError, match="can be captured"):
        render_script("root", list[Edit](), tmp_path)
