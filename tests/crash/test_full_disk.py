"""The disk is full, to its last block or inode: a person goes back all the same, and makes room."""

import shutil
from pathlib import Path

import pytest

from hacktree.client.recovery import find_leftovers
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.condemned import read_condemned
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.reachability import find_commits, list_objects
from support.bisectfarm import bisect, make_farm, make_tester
from support.documents import commands_in
from support.enterable import require_root
from support.fulldisk import Disk, fill, small_disk
from support.sysroots import (
    assert_live_root_is_complete,
    assert_nothing_left_over,
    deploy,
    live_version,
    make_build,
    make_sysroot,
)


def run(sysroot: Sysroot, *words: str) -> None:
    assert main(["--sysroot", str(sysroot.path), *words]) == 0


@pytest.mark.parametrize("kind", Disk)
def test_going_back_and_making_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Disk
) -> None:
    """Rollbacks, then what docs/operations.md shows; what was not noted is, once there is room."""
    require_root()
    with small_disk(kind, tmp_path) as place:
        sysroot = make_sysroot(place / "sysroot", "keep-roots = 3\n")
        (sysroot.repository.path / "config.toml").write_text('min-free-space = "0"\n')
        sysroot = open_sysroot(sysroot.path)
        one, two, three = (deploy(sysroot, make_build(sysroot, n)).root for n in (1, 2, 3))
        fill(kind, place / "hoard")
        for target, version, previous in ((), 2, three), ((), 3, two), (("--to", one), 1, three):
            run(sysroot, "rollback", *target)
            assert live_version(sysroot) == f"VERSION={version}"
            assert read_roots(sysroot).previous == previous
            assert_live_root_is_complete(sysroot.path)
        assert find_leftovers(sysroot).describe() == [f"note that {one} went live"]
        run(sysroot, "status")
        assert f"note that {one} went live" in capsys.readouterr().out
        for line in commands_in("A full disk"):
            run(sysroot, *line.split()[1:])
        shutil.rmtree(place / "hoard")
        run(sysroot, "cleanup")
        assert read_roots(sysroot).order == (two, one)
        assert_nothing_left_over(sysroot.path)
        assert fsck(sysroot.repository).intact


@pytest.mark.parametrize("kind", [Disk.EXT4_INODES, Disk.XFS])
def test_a_bisection_ends(tmp_path: Path, kind: Disk) -> None:
    """`bisect reset` makes the root of the start live again, and says if it stays pinned."""
    require_root()
    farm = make_farm(tmp_path / "farm", 8, 5)
    with small_disk(kind, tmp_path) as place:
        sysroot = make_tester(place / "sysroot", farm)
        run(sysroot, "pull", "fastqa")
        started = read_roots(sysroot).current
        bisect(sysroot, "start", "fastqa", "--good", "fastqa~7", "--bad", "fastqa", "--no-prefetch")
        assert read_roots(sysroot).current != started
        fill(kind, place / "hoard")
        done = bisect(sysroot, "reset")
        assert f"{started} is live again" in done.stdout
        assert live_version(sysroot) == "VERSION=8"
        shutil.rmtree(place / "hoard")
        if f"once there is room: hacktree unpin {started}" in done.stdout + done.stderr:
            run(sysroot, "unpin", str(started))
        assert [(r.root, r.pinned) for r in read_roots(sysroot).records.values()] == [
            (started, False)
        ]
        assert_nothing_left_over(sysroot.path)


def test_a_farm_makes_room(tmp_path: Path) -> None:
    """A prune deletes what is due although its record of what it found can't be written before."""
    require_root()
    with small_disk(Disk.EXT4, tmp_path) as place:
        farm = make_farm(place / "farm", 3, 3)
        before = read_condemned(farm)
        fill(Disk.EXT4, place / "hoard")
        words = ["--repo", str(farm.path), "prune", "--keep-depth", "0"]
        assert main(words) == 7, "what is in its period of grace makes no room"
        assert fsck(farm).intact
        assert main([*words, "--no-grace"]) == 0
        assert len(list(find_commits(farm, list_objects(farm).names))) == 1
        assert read_condemned(farm) == before
        assert fsck(farm).intact
