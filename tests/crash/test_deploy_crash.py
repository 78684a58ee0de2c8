"""A deploy that is killed at any step leaves a live root, and the same command completes.

strace kills the process as it enters the Nth call of a kind, for every N there is. What is between
two such calls is writing to new files under temporary names.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.rollback import roll_back
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import open_sysroot
from hacktree.common.objects.ids import ObjectId
from support.sysroots import (
    assert_live_root_is_complete,
    assert_nothing_left_over,
    deploy,
    make_build,
    make_sysroot,
)

KINDS = (
    "?rename,?renameat,?renameat2",
    "linkat",
    "?symlink,symlinkat",
    "fsync",
    "syncfs",
    "?mkdir,mkdirat",
    "?unlink,unlinkat",
    "?rmdir",
)
"""Calls that change a name or make one durable, grouped by what machines call them."""

MOST_CALLS = 200

DEPLOY = """
import sys
from pathlib import Path
from hacktree.client.deploy import DeployOptions, deploy_commit
from hacktree.client.sysroot import open_sysroot
from hacktree.common.objects.ids import parse_object_id
sysroot, commit = open_sysroot(Path(sys.argv[1])), parse_object_id(sys.argv[2])
deploy_commit(sysroot, commit, DeployOptions(), lambda line: None)
"""
ROLL_BACK = """
import sys
from pathlib import Path
from hacktree.client.rollback import roll_back
from hacktree.client.sysroot import open_sysroot
roll_back(open_sysroot(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[ObjectId, ...]]:
    """Builds 1 and 2 are deployed; deploying 3 makes a root, swaps, and removes build 1's."""
    path = tmp_path_factory.mktemp("template") / "sysroot"
    sysroot = make_sysroot(path, "keep-roots = 2\n")
    builds = tuple(make_build(sysroot, number) for number in (1, 2, 3))
    for commit in builds[:2]:
        deploy(sysroot, commit)
    return path, builds


def copy(template: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", template, to], check=True)
    return to


def killed(kind: str, number: int, program: str, *arguments: object) -> bool:
    """Run a program up to its `number`th call of `kind`; whether it got there and was killed."""
    result = subprocess.run(
        [
            *("strace", "-o", os.devnull, "-e", f"trace={kind}"),
            *("-e", f"inject={kind}:signal=KILL:when={number}"),
            *(sys.executable, "-B", "-c", program, *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        return False
    assert result.returncode == -signal.SIGKILL, result.stderr
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_deploy_killed_at_every_call(
    template: tuple[Path, tuple[ObjectId, ...]], tmp_path: Path, kind: str
) -> None:
    """The live link is the old or the new root, whole; the same deploy then completes."""
    path, (_, old, new) = template
    for number in range(1, MOST_CALLS):
        place = copy(path, tmp_path / f"{number}")
        if not killed(kind, number, DEPLOY, place, new.hex()):
            break
        assert assert_live_root_is_complete(place) in (old, new)
        sysroot = open_sysroot(place)
        deploy(sysroot, new)
        assert assert_live_root_is_complete(place) == new
        assert_nothing_left_over(place)
        roots = read_roots(sysroot)
        assert [roots.records[name].commit_id for name in roots.order] == [old, new]
        assert set(roots.records) == set(roots.order), "build 1 is gone"
    else:
        raise AssertionError(f"{kind} has no end")
    assert number > 1 or kind == "?rmdir", "the deploy makes such calls"


@pytest.mark.parametrize("kind", ["?rename,?renameat,?renameat2", "fsync", "linkat"])
def test_a_rollback_killed_at_every_call(
    template: tuple[Path, tuple[ObjectId, ...]], tmp_path: Path, kind: str
) -> None:
    """Live is one of the two roots, whole; both stay; a rollback then works."""
    path, (one, two, _) = template
    for number in range(1, MOST_CALLS):
        place = copy(path, tmp_path / f"{number}")
        if not killed(kind, number, ROLL_BACK, place):
            break
        before = assert_live_root_is_complete(place)
        assert before in (one, two)
        sysroot = open_sysroot(place)
        plan = roll_back(sysroot)
        assert plan.changes
        assert {before, assert_live_root_is_complete(place)} == {one, two}
        assert_nothing_left_over(place)
        assert len(read_roots(sysroot).records) == 2
    else:
        raise AssertionError(f"{kind} has no end")
    assert number > 1, "a rollback makes such calls"


@pytest.mark.parametrize("kind", ["fsync", "?unlink,unlinkat", "?rename,?renameat,?renameat2"])
def test_recovery_killed_at_every_call(
    template: tuple[Path, tuple[ObjectId, ...]], tmp_path: Path, kind: str
) -> None:
    """Recovering is itself interruptible: a deploy is killed, then its successor at every call."""
    path, (_, old, new) = template
    interrupted = copy(path, tmp_path / "interrupted")
    # The third directory of the new root: a temporary root, a pin and no record.
    assert killed("?mkdir,mkdirat", 3, DEPLOY, interrupted, new.hex())
    for number in range(1, MOST_CALLS):
        place = copy(interrupted, tmp_path / f"{number}")
        if not killed(kind, number, DEPLOY, place, new.hex()):
            break
        assert assert_live_root_is_complete(place) in (old, new)
        deploy(open_sysroot(place), new)
        assert assert_live_root_is_complete(place) == new
        assert_nothing_left_over(place)
    else:
        raise AssertionError(f"{kind} has no end")
    assert number > 1


@pytest.mark.parametrize("call", ["fsync", "syncfs", "?rename,?renameat,?renameat2"])
def test_a_disk_that_fails_leaves_a_whole_root_live(
    template: tuple[Path, tuple[ObjectId, ...]], tmp_path: Path, call: str
) -> None:
    """EIO at any of them is an error, never a dangling link; the next deploy completes."""
    path, (_, old, new) = template
    for number in range(1, MOST_CALLS):
        place = copy(path, tmp_path / f"{number}")
        result = subprocess.run(
            [
                *("strace", "-o", os.devnull, "-e", f"trace={call}"),
                *("-e", f"inject={call}:error=EIO:when={number}"),
                *(sys.executable, "-B", "-c", DEPLOY, place, new.hex()),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode == 0:
            break
        assert "Input/output error" in result.stderr
        assert assert_live_root_is_complete(place) in (old, new)
        deploy(open_sysroot(place), new)
        assert assert_live_root_is_complete(place) == new
        assert_nothing_left_over(place)
    else:
        raise AssertionError(f"{call} has no end")
    assert number > 1
