"""Promises: a runner tests what it claims and leaves nothing behind, however the test ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hacktree.common.errors import PeerError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.layout import Mode
from hacktree.server.promotion.command import CommandMissingError
from hacktree.server.promotion.desk import Assignment, Desk, Idle, LeaseLostError
from hacktree.server.promotion.logs import log_path
from hacktree.server.promotion.running import Runner, judge_next
from hacktree.server.promotion.scratch import scratch_root
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Outcome, Verdict
from support.pulling import make_repository
from support.qa import FASTQA, QaFarm, scratch_left
from support.servers import hacktree_program
from support.trees import Directory, make_commit


def farm_running(path: Path, command: str) -> QaFarm:
    return QaFarm(make_repository(path / "farm"), command)


def here(suite: Suite, build: ObjectId) -> None:
    """The farm's own builds are here."""


def ignore(claimed: Assignment) -> None:
    """Nobody wants to know."""


def test_the_command_sees_the_build(tmp_path: Path) -> None:
    farm = farm_running(
        tmp_path,
        'cat $HACKTREE_ROOT/etc/version; echo " $HACKTREE_BUILD $HACKTREE_BRANCH"; touch $TMPDIR/x',
    )
    build = farm.build("seven")
    verdict = farm.run()
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.build) == (Outcome.PASS, build)
    log = log_path(farm.repository, verdict.log).read_text()
    assert log.split() == ["seven", build.hex(), "builds"]
    assert scratch_left(farm.repository) == []
    assert isinstance(farm.run(), Idle)


def test_a_test_that_spoils_its_root_spoils_nothing_else(tmp_path: Path) -> None:
    """Each build's files are its own: the next one sees what was committed."""
    farm = farm_running(
        tmp_path,
        "cat $HACKTREE_ROOT/bin/tool; chmod -R u+w $HACKTREE_ROOT; "
        "echo spoilt >$HACKTREE_ROOT/bin/tool; rm -r $HACKTREE_ROOT/etc",
    )
    for mode in (Mode.ARCHIVE, Mode.BARE_USER):
        repository = make_repository(tmp_path / mode.value, mode)
        for content in ("1", "2"):
            build = make_commit(repository, {"etc/v": content.encode(), "bin/tool": b"fine\n"})
            with scratch_root(repository, build) as (root, _):
                tool = root / "bin/tool"
                assert tool.read_text() == "fine\n"
                tool.chmod(0o644)
                tool.write_text("spoilt")
    for content in ("1", "2"):
        farm.build(content)
        verdict = farm.run()
        assert isinstance(verdict, Verdict)
        assert log_path(farm.repository, verdict.log).read_bytes() == b"#!"


def test_a_missing_command_gives_the_build_up(tmp_path: Path) -> None:
    farm = farm_running(tmp_path, "")
    settings = farm.repository.path / "server.toml"
    settings.write_text(settings.read_text().replace("/bin/sh", "/no/such/program"))
    build = farm.build()
    with pytest.raises(CommandMissingError):
        farm.run()
    assert scratch_left(farm.repository) == []
    again = farm.desk().claim(FASTQA, "lab-2")
    assert isinstance(again, Assignment)
    assert again.build == build


def test_a_build_that_can_not_be_fetched_is_given_up(tmp_path: Path) -> None:
    farm = farm_running(tmp_path, "")
    farm.build()

    def fetch(suite: Suite, build: ObjectId) -> None:
        raise PeerError("the cable is out")

    runner = Runner(farm.desk(), farm.repository, fetch, "lab-1")
    with pytest.raises(PeerError, match="cable"):
        judge_next(runner, FASTQA, ignore)
    assert isinstance(farm.desk().claim(FASTQA, "lab-2"), Assignment)


class Shaky:
    """A desk whose line is down for renewals, as often as the test says."""

    def __init__(self, desk: Desk, seconds: int) -> None:
        self.desk, self.seconds, self.renewals = desk, seconds, 0
        self.claim_again, self.report, self.give_up = desk.claim, desk.report, desk.give_up

    def claim(self, suite: str, holder: str) -> Assignment | Idle:
        claimed = self.claim_again(suite, holder)
        assert isinstance(claimed, Assignment)
        short = Assignment(claimed.lease, claimed.build, claimed.sequence, claimed.suite, 1)
        return short if self.seconds else claimed

    def renew(self, lease: str) -> None:
        self.renewals += 1
        raise PeerError("the line is down")


def test_an_unreachable_farm_is_borne_until_the_lease_must_be_over(tmp_path: Path) -> None:
    farm = farm_running(tmp_path, "exec sleep 3600")
    farm.build()
    desk = Shaky(farm.desk(), 1)
    with pytest.raises(PeerError, match="line is down"):
        judge_next(Runner(desk, farm.repository, here, "lab-1"), FASTQA, ignore)
    assert desk.renewals > 1
    assert scratch_left(farm.repository) == []


def test_the_lease_is_kept_while_a_build_is_fetched(tmp_path: Path) -> None:
    farm = farm_running(tmp_path, "exit 0")
    farm.build()
    renewed = []

    class Counting(Shaky):
        def renew(self, lease: str) -> None:
            renewed.append(lease)

    def slow(suite: Suite, build: ObjectId) -> None:
        while len(renewed) < 3:
            os.sched_yield()

    runner = Runner(Counting(farm.desk(), 1), farm.repository, slow, "lab-1")
    assert isinstance(judge_next(runner, FASTQA, ignore), Verdict)
    assert len(renewed) >= 3


def test_a_lost_lease_ends_the_test_without_a_verdict(tmp_path: Path) -> None:
    farm = farm_running(tmp_path, "exec sleep 3600")
    farm.build()

    class Lost(Shaky):
        def renew(self, lease: str) -> None:
            raise LeaseLostError("taken over")

    with pytest.raises(LeaseLostError):
        judge_next(Runner(Lost(farm.desk(), 1), farm.repository, here, "lab-1"), FASTQA, ignore)
    assert scratch_left(farm.repository) == []


def test_unwritable_directories_are_removed_too(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "r", Mode.BARE_USER)
    build = make_commit(repository, {"locked": Directory(mode=0o500), "locked/file": b"x"})
    with scratch_root(repository, build) as (root, _):
        assert (root / "locked/file").exists()
    assert scratch_left(repository) == []


def test_nothing_below_a_mount_is_deleted(tmp_path: Path) -> None:
    """A bind of somebody's home, left in a scratch root, is not emptied."""
    home, place = tmp_path / "home", tmp_path / "scratch dir"
    (place / "root" / "home").mkdir(parents=True)
    home.mkdir()
    (home / "thesis").write_text("x")
    program = (
        "import subprocess, sys; from pathlib import Path\n"
        "from hacktree.server.promotion.scratch import *\n"
        "home, place = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "subprocess.run(['mount', '--bind', home, place / 'root/home'], check=True)\n"
        "try: remove_tree(place)\n"
        "except StillMountedError as error: print(error)\n"
        "subprocess.run(['umount', place / 'root/home'], check=True)\n"
        "remove_tree(place)\n"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", program, home, place],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "still mounted" in done.stdout
    assert (home / "thesis").exists()
    assert not place.exists()


def test_what_a_killed_runner_left_is_removed_by_the_next(tmp_path: Path) -> None:
    farm = farm_running(tmp_path, "exit 0")
    farm.build()
    program = (
        "import os, sys; from pathlib import Path\n"
        "from hacktree.common.repository.refs import read_ref\n"
        "from hacktree.common.repository.repository import open_repository\n"
        "from hacktree.server.promotion.scratch import *\n"
        "repository = open_repository(Path(sys.argv[1]))\n"
        "with scratch_root(repository, read_ref(repository, 'builds')):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, farm.repository.path], check=False)
    assert len(scratch_left(farm.repository)) == 1
    assert isinstance(farm.run(), Verdict)
    assert scratch_left(farm.repository) == []


def test_a_running_test_is_left_alone(tmp_path: Path) -> None:
    farm = farm_running(tmp_path, "exit 0")
    build = farm.build()
    with scratch_root(farm.repository, build) as (root, _):
        assert isinstance(farm.run(), Verdict)
        assert (root / "etc/version").exists()


def test_a_stopped_runner_cleans_up_and_gives_the_build_up(tmp_path: Path) -> None:
    """SIGTERM, as a service manager sends it."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    farm = farm_running(tmp_path, f"echo $$ >{ready}; exec sleep 3600")
    build = farm.build()
    runner = subprocess.Popen(
        [hacktree_program(), "--repo", str(farm.repository.path), "qa", "run", "fastqa"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid = int(ready.read_text())
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert scratch_left(farm.repository) == []
    farm.clock.now = time.time()
    again = farm.desk().claim(FASTQA, "lab-2")
    assert isinstance(again, Assignment)
    assert again.build == build


def test_a_killed_runners_build_is_tested_by_another(tmp_path: Path) -> None:
    ready, gate = tmp_path / "ready", tmp_path / "gate"
    os.mkfifo(ready)
    farm = farm_running(tmp_path, f"test -e {gate} && exit 0; echo $$ >{ready}; exec sleep 3600")
    build = farm.build()
    arguments = [hacktree_program(), "--repo", str(farm.repository.path), "qa", "run", "fastqa"]
    runner = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    ready.read_text()
    runner.kill()
    runner.wait()
    gate.touch()
    farm.clock.now = time.time()
    assert isinstance(farm.run(), Idle)
    farm.clock.now += 90
    verdict = farm.run()
    assert isinstance(verdict, Verdict)
    assert (verdict.build, verdict.outcome) == (build, Outcome.PASS)
    assert scratch_left(farm.repository) == []
