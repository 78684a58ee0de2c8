"""Promise: attributes survive commit → pull → checkout, through chmod-only builds, prune and fsck.

Two files share one content under different attributes; a real nginx stands between farm and tester.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.revision import resolve
from support.servers import RunningServer, nginx_serving

BIN = Path(sys.executable).parent
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def hacktree(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    for name, mode, owner in (("su", 0o4755, 0), ("twin", 0o640, 12)):
        (root / "usr/bin" / name).write_bytes(b"one content")
        os.chown(root / "usr/bin" / name, owner, owner)
        (root / "usr/bin" / name).chmod(mode)
    (root / "usr/bin/ping").write_bytes(b"ping")
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "usr/bin", "user.directory", b"\x00\x01")
    (root / "usr/bin/empty").touch()
    os.symlink("su", root / "usr/bin/link")
    os.lchown(root / "usr/bin/link", 3, 4)
    with open(os.fsencode(root) + b"/usr/bin/caf\xe9", "wb") as stream:
        stream.write(b"latin-1")
    (root / "usr").chmod(0o2755)
    return root


@pytest.fixture
def farm(tmp_path: Path, tree: Path) -> Path:
    path = tmp_path / "farm"
    hacktree("--repo", path, "init")
    hacktree("--repo", path, "commit", "builds", tree, "--quiet")
    return path


@pytest.fixture
def server(farm: Path) -> Iterator[RunningServer]:
    with nginx_serving(farm) as running:
        yield running


def new_client(path: Path, mode: str, url: str) -> Repository:
    hacktree("--repo", path, "init", "--mode", mode)
    hacktree("--repo", path, "remote", "add", "origin", url, "--unsigned")
    return open_repository(path)


def tree_id(repository: Repository, revision: str) -> bytes:
    return repository.load_commit(resolve(repository, revision)).root.id


def content_requests(server: RunningServer) -> list[str]:
    return [entry.path for entry in server.requests() if entry.path.endswith(".file.zst")]


def test_a_bare_client_gets_every_attribute_bit_for_bit(
    tmp_path: Path, tree: Path, farm: Path, server: RunningServer
) -> None:
    client = new_client(tmp_path / "client", "bare", server.url)
    hacktree("--repo", client.path, "pull", "builds")
    hacktree("--repo", client.path, "checkout", "builds", tmp_path / "out")
    # A commit of what was checked out has the very tree that was published.
    hacktree("--repo", tmp_path / "again", "init")
    hacktree("--repo", tmp_path / "again", "commit", "builds", tmp_path / "out", "--quiet")
    published = tree_id(open_repository(farm), "builds")
    assert tree_id(open_repository(tmp_path / "again"), "builds") == published
    assert (tmp_path / "out/usr/bin/su").stat().st_mode & 0o7777 == 0o4755
    assert os.getxattr(tmp_path / "out/usr/bin/ping", "security.capability") == CAPABILITY


@pytest.mark.parametrize("mode", ["archive", "bare", "bare-user"])
def test_twins_live_through_a_chmod_only_build(
    tmp_path: Path, tree: Path, farm: Path, server: RunningServer, mode: str
) -> None:
    client = new_client(tmp_path / "client", mode, server.url)
    pull = ("--repo", client.path, "pull", "builds")
    hacktree(*pull)
    hacktree("--repo", client.path, "checkout", "builds", tmp_path / "first")
    before = len(content_requests(server))
    assert before == len(set(content_requests(server)))

    (tree / "usr/bin/twin").chmod(0o4600 if mode == "bare" else 0o600)
    hacktree("--repo", farm, "commit", "builds", tree, "--quiet")
    hacktree(*pull)
    assert len(content_requests(server)) == before, "a chmod downloads no content"
    hacktree("--repo", client.path, "checkout", "builds", tmp_path / "second")
    for name in ("su", "twin"):
        assert (tmp_path / "second/usr/bin" / name).read_bytes() == b"one content"
    first = (tmp_path / "first/usr/bin/twin").stat().st_mode
    second = (tmp_path / "second/usr/bin/twin").stat().st_mode
    assert first & 0o777 == 0o640
    assert second & 0o777 == 0o600

    hacktree("--repo", client.path, "prune", "--keep-depth", "0")
    hacktree("--repo", client.path, "fsck")
    hacktree("--repo", client.path, "checkout", "builds", tmp_path / "third")
    # Owners and modes are in the trees in every mode, whatever the inodes can hold.
    assert tree_id(client, "builds") == tree_id(open_repository(farm), "builds")
    entries = dict(
        walk_tree(client.load_tree, client.load_commit(resolve(client, "builds")).root.id)
    )
    su = entries[b"usr/bin/su"]
    assert isinstance(su, FileEntry)
    assert su.mode == 0o4755
    directory = entries[b"usr/bin"]
    assert isinstance(directory, DirectoryEntry)
    assert directory.xattrs == (("user.directory", b"\x00\x01"),)


def test_a_person_without_root_pulls_deploys_and_rolls_back(
    tmp_path: Path, server: RunningServer, farm: Path, tree: Path
) -> None:
    """As uid 1000 without any privilege, in a directory of theirs, with the same commands."""
    home = tmp_path / "home"
    home.mkdir()

    def run(*words: str) -> str:
        unshare = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
        done = subprocess.run(
            [*unshare, str(BIN / words[0]), *words[1:]],
            env={**os.environ, "HACKTREE_SYSROOT": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("hacktree", "remote", "add", "origin", server.url, "--unsigned")
    run("hacktree-pull", "builds")
    assert 'mode = "bare-user"' in (home / ".ht/format").read_text()
    (tree / "usr/bin/new").write_text("new")
    hacktree("--repo", farm, "commit", "builds", tree, "--quiet")
    run("hacktree-pull", "builds")
    assert (home / "gnomeos/usr/bin/new").read_text() == "new"
    run("hacktree", "rollback")
    assert not (home / "gnomeos/usr/bin/new").exists()
    assert "intact" in run("hacktree", "fsck")
