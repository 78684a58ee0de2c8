"""Promise: a backup that is killed leaves the copy before it whole, or the new one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import open_repository
from hacktree.server.database import open_database
from hacktree.server.grants import parse_grant
from hacktree.server.tokens import create_token, list_tokens
from support.backups import assert_whole
from support.kill import every_kill
from support.trees import make_commit

HACKTREE = str(Path(sys.executable).parent / "hacktree")
GRANTS = [parse_grant("push:builds")]


def command(work: Path) -> list[str]:
    return [HACKTREE, "--repo", str(work / "farm"), "backup", str(work / "copy"), "--quiet"]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A farm, and a copy of it that lacks a build, a branch and a token, and has one too many."""
    work = tmp_path / "work"  # A backup knows the path of its farm, so this is made in its place.
    work.mkdir()
    init_repository(work / "farm", Mode.ARCHIVE)
    farm = open_repository(work / "farm")
    for branch in ("builds", "dropped/deep"):
        make_commit(farm, {"usr/one": b"1"}, branch=branch)
    create_token(open_database(farm), GRANTS, "first", None, 1_800_000_000)
    subprocess.run(command(work), check=True)
    (farm.path / "refs/dropped/deep").unlink()
    (farm.path / "refs/dropped").rmdir()
    make_commit(farm, {"usr/one": b"2"}, branch="builds")
    make_commit(farm, {"usr/one": b"2"}, branch="dropped")
    create_token(open_database(farm), GRANTS, "second", None, 1_800_000_001)
    reset(work, tmp_path / "template")
    return tmp_path / "template"


def reset(template: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run(["cp", "-a", str(template), str(work)], check=True)


@pytest.mark.parametrize("syscall", ["syncfs", "link", "rename"])
def test_a_refresh_that_is_killed(template: Path, tmp_path: Path, syscall: str) -> None:
    work = tmp_path / "work"
    reset(template, work)
    farm = open_repository(work / "farm")
    for _ in every_kill(command(work), syscall):
        tokens = list_tokens(open_database(assert_whole(work / "copy")))
        assert [token.label for token in tokens][:1] == ["first"]
        subprocess.run(command(work), check=True)
        copy = assert_whole(work / "copy")
        assert list_refs(copy) == list_refs(farm)
        assert len(list_tokens(open_database(copy))) == 2
        assert list(copy.staging.iterdir()) == []
        reset(template, work)


@pytest.mark.parametrize("syscall", ["syncfs", "rename"])
def test_a_first_backup_that_is_killed(template: Path, tmp_path: Path, syscall: str) -> None:
    work = tmp_path / "work"
    shutil.rmtree(template / "copy")
    reset(template, work)
    farm = open_repository(work / "farm")
    for _ in every_kill(command(work), syscall):
        assert not (work / "copy").exists(), "it has no name before it is whole"
        subprocess.run(command(work), check=True)
        copy = assert_whole(work / "copy")
        assert list_refs(copy) == list_refs(farm)
        assert sorted(path.name for path in work.iterdir()) == ["copy", "farm"]
        reset(template, work)
