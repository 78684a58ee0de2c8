"""Promise: a commit that is killed, or whose disk fails, leaves the old head or the new, whole."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import check_totals, walk_tree
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository, open_repository
from support.kill import every_kill, fail_at

HACKTREE = str(Path(sys.executable).parent / "hacktree")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "usr").mkdir(parents=True)
    (root / "usr/one").write_text("one")
    (root / "usr/two").write_bytes(os.urandom(5 << 20))
    return root


@pytest.fixture
def template(tmp_path: Path, tree: Path) -> Path:
    """A repository with build 1; the tree has moved on to what will be build 2."""
    path = tmp_path / "template"
    init_repository(path, Mode.ARCHIVE)
    assert main(["--repo", str(path), "commit", "builds", str(tree), "--quiet"]) == 0
    (tree / "usr/three").write_text("three")
    (tree / "usr/one").write_text("uno")
    return path


def assert_whole(repository: Repository, head: ObjectId) -> None:
    commit = repository.load_commit(head)
    check_totals(repository.load_tree, commit)
    for _, entry in walk_tree(repository.load_tree, commit.root.id):
        if isinstance(entry, FileEntry):
            assert sum(map(len, repository.read_content(entry))) == entry.size


def reset(template: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run(["cp", "-a", str(template), str(work)], check=True)


@pytest.mark.parametrize("syscall", ["syncfs", "link", "fsync", "rename"])
def test_killed_at_every_durable_step(
    template: Path, tree: Path, tmp_path: Path, syscall: str
) -> None:
    work = tmp_path / "work"
    command = [HACKTREE, "--repo", str(work), "commit", "builds", str(tree), "--quiet"]
    old = read_ref(open_repository(template), "builds")
    assert old is not None
    reset(template, work)
    for _ in every_kill(command, syscall):
        repository = open_repository(work)
        head = read_ref(repository, "builds")
        assert head is not None
        assert_whole(repository, head)
        subprocess.run([*command, "--if-changed"], check=True, capture_output=True)
        head = read_ref(repository, "builds")
        assert head not in (None, old)
        assert head is not None
        assert_whole(repository, head)
        assert repository.load_commit(head).totals.files == 3
        assert list(repository.staging.iterdir()) == []
        reset(template, work)


@pytest.mark.parametrize(
    ("syscall", "error", "status"),
    [("syncfs", "EIO", 8), ("fsync", "EIO", 8), ("link", "EROFS", 8)],
)
def test_a_failing_disk_is_a_clear_error_and_publishes_nothing(
    template: Path, tree: Path, tmp_path: Path, syscall: str, error: str, status: int
) -> None:
    work = tmp_path / "work"
    reset(template, work)
    repository = open_repository(work)
    old = read_ref(repository, "builds")
    command = [HACKTREE, "--repo", str(work), "commit", "builds", str(tree), "--quiet"]
    done = fail_at(command, syscall, error, 1)
    assert done.returncode == status
    assert done.stderr.startswith("hacktree: ")
    assert "Traceback" not in done.stderr
    assert read_ref(repository, "builds") == old
    assert list(repository.staging.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_told_with_numbers_and_nothing_is_published(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_repository(small_disk / "r", Mode.ARCHIVE)
    tree = tmp_path / "big"
    tree.mkdir()
    for number in range(8):
        (tree / f"{number}").write_bytes(os.urandom(6 << 20))
    arguments = ["--repo", str(small_disk / "r"), "commit", "builds", str(tree)]
    assert main(arguments) == 7
    assert "MB" in capsys.readouterr().err
    (small_disk / "r/config.toml").write_text('min-free-space = "0"\n')
    assert main(arguments) == 7
    repository = open_repository(small_disk / "r")
    assert read_ref(repository, "builds") is None
    assert list(repository.staging.iterdir()) == []
    assert list(repository.objects.rglob("*.*")) == []
