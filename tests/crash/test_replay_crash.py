"""A deploy with steps that is killed, or whose disk fails, at any point: nothing shared is harmed.

Each phase of a replay is killed in this process's fork as it makes the Nth call of a kind, seen by
Python's own audit hook; the syncs fail by strace's fault injection.
"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.replay.step import Root
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.fsck import fsck
from support.kill import fail_at
from support.steps import FunctionStep, replaying
from support.sysroots import (
    assert_nothing_left_over,
    deploy,
    live_version,
    make_build,
    make_sysroot,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")

EVENTS = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.symlink", "os.fork")
"""What changes names, and the forks that begin a step."""

EACH = 11
"""Of the calls of a deploy, every how manyth is a place to be killed at."""


def change(root: Root) -> None:
    (root.path / "usr/bin/same").write_text("changed")
    (root.path / "empty").unlink()


def add(root: Root) -> None:
    root.run(["mkdir", str(root.path / "new")], inside=False)
    (root.path / "new/file").write_text("new")


STEPS = (FunctionStep("change", change), FunctionStep("add", add))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ObjectId, ObjectId]:
    """Build 1 is live with the steps; build 2 is to be deployed with them."""
    path = tmp_path_factory.mktemp("template") / "sysroot"
    sysroot = make_sysroot(path)
    builds = [make_build(sysroot, number) for number in (1, 2)]
    deploy(sysroot, builds[0], replaying(*STEPS))
    return path, builds[0], builds[1]


def copy(template: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", template, to], check=True)
    return to


def deploy_killed(place: Path, commit: ObjectId, number: int) -> int:
    """Deploy in a fork that kills itself at its `number`th call; returns its exit status."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in EVENTS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        status = 1
        try:
            deploy(open_sysroot(place), commit, replaying(*STEPS))
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_whole(sysroot: Sysroot, version: int) -> None:
    """The live root is build `version` with both steps; the repository is intact."""
    assert live_version(sysroot) == f"VERSION={version}"
    assert (sysroot.link / "usr/bin/same").read_text() == "changed"
    assert (sysroot.link / "new/file").read_text() == "new"
    assert not (sysroot.link / "empty").exists()
    assert fsck(sysroot.repository, jobs=1).intact


def assert_next_deploy_completes(sysroot: Sysroot, commit: ObjectId) -> None:
    deploy(sysroot, commit, replaying(*STEPS))
    assert_whole(sysroot, 2)
    assert_nothing_left_over(sysroot.path)
    names = [step.key for r in read_roots(sysroot).records.values() for step in r.steps]
    assert sorted(os.listdir(sysroot.replay)) == sorted({*names} | failed_log(sysroot))


def failed_log(sysroot: Sysroot) -> set[str]:
    return {"failed.log"} & set(os.listdir(sysroot.replay))


def test_killed_at_any_phase(template: tuple[Path, ObjectId, ObjectId], tmp_path: Path) -> None:
    """What is live is the old root or the new one, with its steps; the next deploy completes."""
    path, _, new = template
    seen = set()
    for number in range(1, 1000, EACH):
        place = copy(path, tmp_path / f"{number}")
        status = deploy_killed(place, new, number)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        sysroot = open_sysroot(place)
        seen.add(live_version(sysroot))
        assert_whole(sysroot, int(live_version(sysroot)[-1]))
        assert_next_deploy_completes(sysroot, new)
        subprocess.run(["rm", "-rf", place], check=True)
    assert number > 5 * EACH, "a deploy makes such calls"
    assert "VERSION=1" in seen


DEPLOY = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[3], sys.argv[4]]
from test_replay_crash import STEPS
from hacktree.client.sysroot import open_sysroot
from hacktree.common.objects.ids import parse_object_id
from support.steps import replaying
from support.sysroots import deploy
deploy(open_sysroot(Path(sys.argv[1])), parse_object_id(sys.argv[2]), replaying(*STEPS))
"""


@pytest.mark.parametrize(
    ("call", "error", "numbers"),
    [("syncfs", "EIO", (1,)), ("fsync", "EIO", (3, 8)), ("mount", "ENOSPC", (9,))],
)
def test_a_disk_that_fails(
    template: tuple[Path, ObjectId, ObjectId],
    tmp_path: Path,
    call: str,
    error: str,
    numbers: tuple[int, ...],
) -> None:
    """A sync that fails swaps nothing; neither does a mount, inside."""
    path, _, new = template
    here = Path(__file__)
    failed = 0
    for number in numbers:
        place = copy(path, tmp_path / f"{number}")
        command = [sys.executable, "-c", DEPLOY, place, new.hex(), here.parents[1], here.parent]
        done = fail_at([str(word) for word in command], call, error, number)
        sysroot = open_sysroot(place)
        if done.returncode != 0:
            failed += 1
            assert os.strerror(getattr(errno, error)) in done.stderr
            assert_whole(sysroot, int(live_version(sysroot)[-1]))
        assert_next_deploy_completes(sysroot, new)
    assert failed


def test_a_full_disk(tmp_path: Path) -> None:
    """A step that fills the file system: an error that says so, nothing swapped, space back."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with open(image, "wb") as stream:
        stream.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        sysroot = make_sysroot(place / "sysroot")
        (sysroot.repository.path / "config.toml").write_text('min-free-space = "0"\n')
        sysroot = open_sysroot(sysroot.path)
        old, new = make_build(sysroot, 1), make_build(sysroot, 2)
        deploy(sysroot, old, replaying(*STEPS))

        def fill(root: Root) -> None:
            (root.path / "big").write_bytes(bytes(64 << 20))

        free = os.statvfs(place).f_bavail
        with pytest.raises((OSError, HacktreeError), match="No space left on device"):
            deploy(sysroot, new, replaying(*STEPS, FunctionStep("fill", fill)))
        assert_whole(sysroot, 1)
        assert_nothing_left_over(sysroot.path)
        assert os.statvfs(place).f_bavail > free - 200
        assert_next_deploy_completes(sysroot, new)
    finally:
        subprocess.run(["umount", place], check=True)
