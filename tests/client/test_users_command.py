"""`hacktree users`, and the directories that are bound."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hacktree.client.sysroot import Sysroot, hold_sysroot, open_sysroot
from hacktree.client.users.carry import parse_carry
from hacktree.client.users.homes import Bind, bind_targets, list_binds
from hacktree.client.users.registry import (
    Registry,
    read_registry,
    registry_path,
    write_registry,
)
from hacktree.common.cli.main import main
from hacktree.common.errors import UserError
from support.documents import commands_in, tables_in
from support.machines import build_tree, make_machine
from support.sysroots import deploy, make_build, make_sysroot
from support.trees import make_commit

CONFIG = """\
keep-roots = 1
share-root = true
bind = ["/srv/data"]
bind-read-only = ["/srv/papers"]
"""


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "machine"))
    sysroot = make_machine(tmp_path / "machine", CONFIG)
    for name in ("srv/data", "srv/papers", "root"):
        (sysroot.path / name).mkdir(parents=True)
    return sysroot


def test_what_the_next_root_gets(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """For people a line each; for programs one document with the same names."""
    commit = make_commit(sysroot.repository, build_tree())
    (sysroot.path / "etc/hostname").write_text("bench\n")
    assert main(["users", "fastqa"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "jane (1000) added: uid in 1000 to 60000, in wheel, video, lab" in shown
    assert "copy of /etc/hostname" in shown
    assert f"directory /home is {sysroot.path}/home, when entered or booted" in shown
    assert any(line.startswith("note: jane gets /bin/bash: this build has no") for line in shown)
    assert main(["users", "fastqa", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["commit"] == commit.hex()
    assert document["host"] == str(sysroot.path)
    assert document["users"][0] == {
        "name": "jane",
        "uid": 1000,
        "state": "added",
        "why": "uid in 1000 to 60000",
        "home": "/home/jane",
        "shell": "/bin/bash",
        "groups": ["wheel", "video", "lab"],
        "absent-groups": ["docker"],
    }
    assert document["binds"][3] == {
        "source": f"{sysroot.path}/srv/papers",
        "target": "/srv/papers",
        "read-only": True,
    }
    assert not registry_path(sysroot).exists()


def test_which_build_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The live root's; without one it has to be named. A directory elsewhere has nobody."""
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    sysroot = make_sysroot(tmp_path / "sysroot")
    commit = make_build(sysroot, 1)
    assert main(["users"]) == 2
    assert "no root is live" in capsys.readouterr().err
    deploy(sysroot, commit)
    assert main(["users"]) == 0
    assert capsys.readouterr().out.startswith("nobody: this sysroot belongs to no machine")


def test_forgetting(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """A name may get another id again; the next deploy makes a new root, if a step creates it."""
    make_commit(sysroot.repository, build_tree())
    write_registry(sysroot, Registry(users={"svc": (997,)}, groups={"svc": (997, 996)}))
    assert main(["users", "fastqa"]) == 0
    assert "user svc gets id 997, if a step creates it" in capsys.readouterr().out
    assert main(["users", "--forget", "svc", "--dry-run"]) == 0
    assert capsys.readouterr().out == "would forget svc: uid 997, gid 997, gid 996\n"
    assert read_registry(sysroot).users == {"svc": (997,)}
    with hold_sysroot(sysroot):
        assert main(["users", "--forget", "svc"]) == 6
    assert main(["users", "--forget", "svc"]) == 0
    assert read_registry(sysroot) == Registry(generation=1)
    assert main(["users", "--forget", "svc"]) == 2
    registry_path(sysroot).write_text("x")
    assert main(["users", "fastqa"]) == 5


def test_binds(sysroot: Sysroot) -> None:
    """Homes first, then what is declared; sources are the machine's, targets inside a root."""
    top = sysroot.path
    assert list_binds(sysroot) == [
        Bind(top / "home", "home"),
        Bind(top / "root", "root"),
        Bind(top / "srv/data", "srv/data"),
        Bind(top / "srv/papers", "srv/papers", read_only=True),
    ]
    (top / "srv/data").rmdir()
    with pytest.raises(UserError, match="has no directory /srv/data"):
        list_binds(sysroot)
    (top / "usr").mkdir()
    (top / "srv/data").symlink_to("/usr")
    with pytest.raises(UserError, match="'/usr' can't be bound"):
        list_binds(sysroot)
    assert bind_targets(sysroot) == ["/root", "/srv/data", "/srv/papers"]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "//srv", "srv", "/srv/", "/srv/../usr", "/usr", "/usr/local", "/etc", "/etc/ssh"),
        *("/proc", "/sys/fs", "/dev/shm", "/run", "/tmp", "/boot", "/var", "/var/lib", "/home"),
        *("/root", "/bin", "/lib64", "/srv/a\\nb", ""),
    ],
)
def test_places_that_are_the_builds_are_never_bound(tmp_path: Path, path: str) -> None:
    """Whether read-only or not."""
    for key in ("bind", "bind-read-only"):
        sysroot = make_machine(tmp_path / key, f'{key} = ["{path}"]\n')
        with pytest.raises(UserError, match="can't be bound"):
            bind_targets(sysroot)


@pytest.mark.parametrize("place", ["machine/.ht/roots", "machine/.ht", "machine", "."])
def test_the_roots_are_never_bound_into_themselves(tmp_path: Path, place: str) -> None:
    """Neither the repository nor what it is in."""
    sysroot = make_machine(tmp_path / "machine", f'bind = ["{(tmp_path / place).resolve()}"]\n')
    with pytest.raises(UserError, match="the roots themselves are there"):
        bind_targets(sysroot)


UNDEPLOY = """
    import subprocess, sys
    from pathlib import Path
    from hacktree.client import removal
    from hacktree.client.keeping import PreviousPolicy, undeploy_root
    from hacktree.client.roots import read_roots
    from hacktree.client.sysroot import open_sysroot
    from hacktree.client.users.homes import list_binds

    def undeploy():
        try:
            undeploy_root(sysroot, "previous", PreviousPolicy.REMOVE)
        except removal.MountedError as error:
            print(bind.target, error.message)

    sysroot = open_sysroot(Path(sys.argv[1]))
    roots = read_roots(sysroot)
    for bind in list_binds(sysroot):
        place = sysroot.roots / roots.previous / bind.target
        subprocess.run(["mount", "--bind", bind.source, place], check=True)
        undeploy()
        subprocess.run(["umount", place], check=True)
    # As if each were mounted after the look at mountinfo; the first that is met ends it.
    removal.refuse_mounts = lambda directory: None
    for bind in list_binds(sysroot):
        (root,) = {entry.name for entry in sysroot.roots.iterdir()} - {roots.current}
        place = sysroot.roots / root / bind.target
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", bind.source, place], check=True)
        if root == roots.previous:
            undeploy()
        else:
            try:
                removal.delete_leftover(sysroot, root)
            except removal.MountedError as error:
                print(bind.target, error.message)
        (root,) = {entry.name for entry in sysroot.roots.iterdir()} - {roots.current}
        subprocess.run(["umount", sysroot.roots / root / bind.target], check=True)
    """


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_deleting_a_root_follows_no_bind(sysroot: Sysroot) -> None:
    """Home, /root and declared directories of the same file system survive, each bound for real."""
    places = ("home/jane", "root", "srv/data", "srv/papers")
    for place in places:
        (sysroot.path / place / "thesis").write_text("years of work")
    for number in (1, 2):
        tree = build_tree() | {"root/.profile": b"", "usr/share/n": str(number).encode()}
        deploy(sysroot, make_commit(sysroot.repository, tree))
    program = textwrap.dedent(UNDEPLOY)
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", program, str(sysroot.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    targets = ["home", "root", "srv/data", "srv/papers"]
    assert [line.split()[0] for line in lines] == targets * 2
    assert all("is a mount point" in line for line in lines[:4])
    assert all("something is mounted on" in line for line in lines[4:])
    for place in places:
        assert (sysroot.path / place / "thesis").read_text() == "years of work"


def test_the_documented_commands_and_configuration(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """What docs/operations.md shows works as it is typed."""
    make_commit(sysroot.repository, build_tree())
    deploy(sysroot, make_commit(sysroot.repository, build_tree()))
    write_registry(sysroot, Registry(users={"exampled": (997,)}))
    commands = commands_in("Users and homes")
    assert len(commands) == 3
    for command in commands:
        assert main(command.split()[1:]) == 0, capsys.readouterr().err
    (table,) = tables_in("Users and homes")
    (sysroot.path / "etc/hacktree/client.toml").write_text(table)
    config = open_sysroot(sysroot.path).config
    assert config.users.groups == ("lab",)
    assert parse_carry(config.carry)[-1] == "/etc/cups/*.conf"
    assert bind_targets(open_sysroot(sysroot.path)) == ["/root", "/srv/data", "/srv/papers"]
