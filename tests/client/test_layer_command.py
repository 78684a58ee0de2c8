"""`hacktree layer` and what it does to deploys, with `make install` and a real replay."""

import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.prune import prune
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.retention import Policy
from support.documents import commands_in
from support.enterable import hacktree_command
from support.layering import (
    make_library,
    make_program,
    make_system,
    write_project,
    write_tree,
)
from support.sysroots import deploy, make_sysroot
from support.trees import Spec, make_commit

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    return make_sysroot(tmp_path / "sysroot")


@pytest.fixture
def hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with a makefile; the current directory."""
    project = write_project(tmp_path / "hello")
    monkeypatch.chdir(project)
    return project


def let_others_in(directory: Path) -> None:
    """pytest's directories are root's alone."""
    for path in (directory, *directory.parents):
        if path.stat().st_uid == 0 and len(path.parts) > 2:
            path.chmod(path.stat().st_mode | 0o005)


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    """The document that a command prints."""
    capsys.readouterr()
    assert main([words[0], "--json", *words[1:]]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_make_install_becomes_a_layer_of_every_root(
    sysroot: Sysroot, hello: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Add, deploy, run it in the root; update: what is no longer shipped is in no newer root."""
    build = make_system(sysroot)
    assert main(["layer", "add", "hello", "--", "make", "install", "EXTRA=first-"]) == 0
    assert "layer hello is at version 1: 3 files" in capfd.readouterr().out
    deploy(sysroot, build)
    root = sysroot.link.resolve()
    assert (root / "usr/share/hello/first-hello.c").exists()
    assert os.readlink(root / "lib") == "usr/lib"
    if os.geteuid() == 0:
        ran = subprocess.run(["chroot", root, "/usr/bin/hello"], check=True, capture_output=True)
        assert ran.stdout == b"hello\n"
    definition = sysroot.path / "etc/hacktree/layers.d/hello.toml"
    definition.write_text(definition.read_text().replace("EXTRA=first-", "EXTRA=second-"))
    os.chdir("/")
    assert main(["layer", "update", "hello"]) == 0
    assert "layer hello is at version 2" in capfd.readouterr().out
    deploy(sysroot, build)
    newer = sysroot.link.resolve()
    assert newer != root
    assert os.listdir(newer / "usr/share/hello") == ["second-hello.c"]
    assert os.listdir(root / "usr/share/hello") == ["first-hello.c"]
    assert main(["layer", "update", "hello"]) == 0
    assert "layer hello is as it was: version 2" in capfd.readouterr().out
    assert not deploy(sysroot, build).changed


def test_a_layer_that_no_longer_fits_stops_the_deploy(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The live root stays; the message names file, layer and build; `warn` and disable go on."""
    old = make_library(tmp_path / "old.so", "libfoo.so.5", ["foo"])
    new = make_library(tmp_path / "new.so", "libfoo.so.6", ["foo"])
    interpreter = "-Wl,--dynamic-linker=/usr/lib/ld"
    make_program(tmp_path / "layer/usr/bin/x", ["foo"], [old], interpreter)
    tree: dict[str | bytes, Spec] = {"usr/lib/ld": b""}
    first = make_commit(sysroot.repository, {**tree, "usr/lib/libfoo.so.5": old.read_bytes()})
    second = make_commit(sysroot.repository, {**tree, "usr/lib/libfoo.so.6": new.read_bytes()})
    assert main(["layer", "add", "mesa", str(tmp_path / "layer")]) == 0
    assert main(["deploy", first.hex()]) == 0
    live = os.readlink(sysroot.link)
    assert main(["layer", "check"]) == 0
    capsys.readouterr()
    assert main(["layer", "check", second.hex()]) == 1
    sentence = (
        "libfoo.so.5 is needed by usr/bin/x of layer mesa; "
        f"build {second.hex()[:9]} has libfoo.so.6"
    )
    assert capsys.readouterr().out == f"{sentence}\n"
    assert main(["deploy", second.hex()]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert "hacktree layer update" in told
    assert os.readlink(sysroot.link) == live
    assert main(["layer", "disable", "mesa"]) == 0
    assert main(["deploy", second.hex()]) == 0
    assert not (sysroot.link / "usr/bin/x").exists()
    assert main(["layer", "set", "mesa", "--misfit", "warn"]) == 0
    assert main(["layer", "enable", "mesa"]) == 0
    assert sentence in capsys.readouterr().err
    assert main(["deploy", second.hex()]) == 0
    assert (sysroot.link / "usr/bin/x").exists()


def test_conflicts_are_listed_and_nothing_is_made(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `add` as a warning, by a deploy as an error; a pattern settles it."""
    build = make_system(sysroot)
    assert main(["deploy", build.hex()]) == 0
    live = os.readlink(sysroot.link)
    layer = write_tree(tmp_path / "layer", {"usr/bin/old": b"mine", "usr/bin/more": b"mine"})
    document = ask(capsys, "layer", "add", "tools", str(layer))
    called = f"build {build.hex()[:9]}"
    assert document["conflicts"] == [
        {"layer": "tools", "path": "usr/bin/old", "reason": f"is in {called}, too"}
    ]
    assert main(["deploy", build.hex()]) == 2
    told = capsys.readouterr().err
    assert f"layer tools: usr/bin/old: is in {called}, too" in told
    assert "--replace PATTERN" in told
    assert os.listdir(sysroot.roots) == [os.path.basename(live)]
    document = ask(capsys, "layer", "set", "tools", "--replace", "usr/bin/*")
    assert document["conflicts"] == []
    assert main(["deploy", build.hex()]) == 0
    assert (sysroot.link / "usr/bin/old").read_bytes() == b"mine"
    assert (sysroot.path / live / "usr/bin/old").read_bytes() == b"#!/bin/sh\n"


def test_order_decides_who_may_replace_whom(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The later layer is laid over the earlier; its pattern holds for that one's files too."""
    build = make_system(sysroot)
    for name in ("one", "two"):
        layer = write_tree(tmp_path / name, {"usr/bin/shared": name.encode()})
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(layer, ".")
        words = ["--replace", "usr/bin/shared", str(tmp_path / f"{name}.tar.gz")]
        assert main(["layer", "add", name, *words]) == 0
    deploy(sysroot, build)
    assert (sysroot.link / "usr/bin/shared").read_bytes() == b"two"
    assert main(["layer", "order", "two"]) == 0
    deploy(sysroot, build)
    assert (sysroot.link / "usr/bin/shared").read_bytes() == b"one"
    capsys.readouterr()
    assert main(["layer", "list"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["two", "one"]
    assert main(["layer", "order", "two", "none"]) == 2
    assert main(["layer", "order", "two", "two"]) == 2
    assert main(["layer", "set", "two", "--replace", ""]) == 0
    shown = ask(capsys, "layer", "show", "two")
    assert (shown["replace"], shown["order"], shown["source"]) == ([], 10, "tar")


def test_a_few_versions_are_kept(sysroot: Sysroot, tmp_path: Path) -> None:
    """Prune keeps the last four of a layer, whole histories of other branches, and the roots."""
    build = make_system(sysroot)
    make_system(sysroot, {"more": b"x"})
    layer = tmp_path / "layer"
    for number in range(6):
        write_tree(layer, {"usr/bin/number": str(number).encode()})
        assert (
            main(["layer", "update" if number else "add", "n", *([] if number else [str(layer)])])
            == 0
        )
        if number == 0:
            deploy(sysroot, build)
    repository = sysroot.repository
    report = prune(repository, Policy(), now=2_000_000_000, grace=0)
    assert len(report.commits) == 2
    head = repository.load_commit(list_refs(repository)["local/layers/n"])
    assert head.sequence == 6
    assert (sysroot.link / "usr/bin/number").read_bytes() == b"0"
    assert main(["fsck"]) == 0
    deploy(sysroot, build)
    assert (sysroot.link / "usr/bin/number").read_bytes() == b"5"
    assert main(["layer", "remove", "n"]) == 0
    assert "local/layers/n" not in list_refs(repository)
    deploy(sysroot, build)
    assert not (sysroot.link / "usr/bin/number").exists()
    assert main(["layer", "remove", "n"]) == 2


@as_root
def test_the_command_runs_as_the_user_of_sudo(
    sysroot: Sysroot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With their home; what they install belongs to root; nothing is left in $TMPDIR."""
    let_others_in(tmp_path)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("SUDO_USER", "nobody")
    monkeypatch.chdir("/")
    script = (
        'mkdir -p "$DESTDIR/opt"; id -un >"$DESTDIR/opt/who"; echo "$HOME" >>"$DESTDIR/opt/who"'
    )
    document = ask(capsys, "layer", "add", "who", "--", "sh", "-c", script)
    assert document["files"] == 1
    deploy(sysroot, make_system(sysroot))
    who = sysroot.link / "opt/who"
    assert who.read_text().splitlines() == ["nobody", pwd.getpwnam("nobody").pw_dir]
    assert (who.stat().st_uid, who.stat().st_gid, who.parent.stat().st_uid) == (0, 0, 0)
    assert main(["layer", "add", "root", "--as-root", "--", "sh", "-c", script]) == 0
    assert ask(capsys, "layer", "show", "root")["user"] == ""
    assert os.listdir(tmp_path / "temporary") == []


@as_root
def test_the_command_can_put_nothing_in_the_place_of_its_destination(
    sysroot: Sysroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads and chmods it afterwards: a link there would lead to what is root's alone."""
    let_others_in(tmp_path)
    secret = tmp_path / "secret"
    write_tree(secret, {"key": b"x"})
    secret.chmod(0o700)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("SUDO_USER", "nobody")
    monkeypatch.chdir("/")
    script = f'touch "$DESTDIR/x"; mv "$DESTDIR" "$DESTDIR.old"; ln -sT {secret} "$DESTDIR"; :'
    assert main(["layer", "add", "m", "--", "sh", "-c", script]) == 0
    deploy(sysroot, make_system(sysroot))
    assert (sysroot.link / "x").exists()
    assert not (sysroot.link / "key").exists()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o700
    assert os.listdir(tmp_path / "temporary") == []


def test_what_is_wrong_is_said_and_leaves_nothing(
    sysroot: Sysroot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A failing command, an empty tree, a link into DESTDIR, a bad name, source or pattern."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    layer = write_tree(tmp_path / "layer", {"x": b"x"})
    wrong: list[tuple[int, str, list[str]]] = [
        (1, "ended with status 3", ["m", "--", "sh", "-c", "touch $DESTDIR/x; exit 3"]),
        (2, "must install below", ["m", "--", "true"]),
        (2, "make it relative", ["m", "--", "sh", "-c", "ln -s $DESTDIR/usr $DESTDIR/x"]),
        (2, "a layer comes from one of", ["m"]),
        (2, "a layer comes from one of", ["m", str(layer), "--", "true"]),
        (2, "does not exist", ["m", str(tmp_path / "absent")]),
        (2, "not a readable tar archive", ["m", str(layer / "x")]),
        (2, "not a name for a layer", ["../m", str(layer)]),
        (2, "not a pattern of paths", ["m", str(layer), "--remove", "usr/../.."]),
        (2, "not a pattern of paths", ["m", str(layer), "--remove", "/"]),
        (8, "No such file", ["m", "--", "hacktree-no-such-program"]),
    ]
    for status, text, words in wrong:
        assert main(["layer", "add", *words]) == status, words
        assert text in capfd.readouterr().err, words
    assert list_refs(sysroot.repository) == {}
    assert not (sysroot.path / "etc/hacktree/layers.d").exists()
    assert [name for name in os.listdir(tmp_path) if name.startswith("hacktree-")] == []
    assert main(["layer", "add", "m", str(layer)]) == 0
    assert main(["layer", "add", "m", str(layer)]) == 2
    shutil.rmtree(layer)
    assert main(["layer", "update", "m"]) == 2
    (sysroot.path / "etc/hacktree/layers.d/m.toml").write_text('source = "tar"\npath = "x"\n')
    assert main(["layer", "list"]) == 2
    assert "m.toml" in capfd.readouterr().err


def test_the_commands_of_the_manual_work(sysroot: Sysroot, hello: Path) -> None:
    """As docs/operations.md shows them, one after the other."""
    make_system(sysroot)
    shown = [shlex.split(line) for line in commands_in("Layers")]
    assert len(shown) > 5
    for program, *words in shown:
        assert (program, main(words)) == ("hacktree", 0), words


def test_streams_that_are_closed_are_not_taken_by_what_is_opened(sysroot: Sysroot) -> None:
    """What it or its command prints would end up in a file of the repository."""
    fine = " && ".join(f"[ /proc/$$/fd/{number} -ef /dev/null ]" for number in range(3))
    script = f'{fine} && touch "$DESTDIR/x"'
    command = hacktree_command(sysroot, "layer", "add", "m", "--", "sh", "-c", script)
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closed, check=False).returncode == 0
    assert "local/layers/m" in list_refs(sysroot.repository)
