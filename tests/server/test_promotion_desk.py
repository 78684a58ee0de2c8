"""Promises: no build is tested twice at once, verdicts stay, and dead runners are replaced."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.server.promotion.desk import (
    LEASE_SECONDS,
    Assignment,
    Idle,
    LeaseLostError,
    Report,
)
from hacktree.server.promotion.logs import MAX_LOG, LogTooLargeError, log_path
from hacktree.server.promotion.verdicts import Finding, Outcome, VerdictInvalidError
from support.pulling import make_repository
from support.qa import DAILYQA, FAIL, FASTQA, PASS, UNSURE, QaFarm


@pytest.fixture
def farm(tmp_path: Path) -> QaFarm:
    return QaFarm(make_repository(tmp_path / "farm"))


def claim(farm: QaFarm, token: str = "") -> Assignment:
    claimed = farm.desk(token).claim(FASTQA, "lab-1")
    assert isinstance(claimed, Assignment), claimed
    return claimed


def test_the_newest_untested_build_comes_first(farm: QaFarm) -> None:
    old, middle, new = (farm.build(text) for text in "abc")
    assert [claim(farm).build for _ in range(3)] == [new, middle, old]
    nothing = farm.desk().claim(FASTQA, "lab-1")
    assert isinstance(nothing, Idle)
    assert nothing.reason


def test_a_claim_says_what_to_run(farm: QaFarm) -> None:
    build = farm.build()
    claimed = claim(farm)
    assert (claimed.build, claimed.sequence, claimed.suite) == (build, 1, farm.suite())


def test_a_silent_runner_is_replaced_when_its_lease_expires(farm: QaFarm) -> None:
    farm.build()
    lost = claim(farm)
    farm.clock.now += LEASE_SECONDS - 1
    assert isinstance(farm.desk().claim(FASTQA, "lab-2"), Idle)
    farm.clock.now += 1
    again = claim(farm)
    assert again.build == lost.build
    for ask in (farm.desk().renew, lambda lease: farm.desk().report(lease, PASS)):
        with pytest.raises(LeaseLostError):
            ask(lost.lease)
    assert farm.desk().report(again.lease, PASS).outcome is Outcome.PASS


def test_a_renewed_lease_lasts(farm: QaFarm) -> None:
    farm.build()
    claimed = claim(farm)
    for _ in range(10):
        farm.clock.now += LEASE_SECONDS - 1
        farm.desk().renew(claimed.lease)
    assert isinstance(farm.desk().claim(FASTQA, "lab-2"), Idle)


def test_an_expired_lease_that_nobody_wanted_still_counts(farm: QaFarm) -> None:
    farm.build()
    claimed = claim(farm)
    farm.clock.now += 10 * LEASE_SECONDS
    farm.desk().renew(claimed.lease)
    assert farm.desk().report(claimed.lease, PASS).outcome is Outcome.PASS


def test_a_build_that_is_given_up_is_free_at_once(farm: QaFarm) -> None:
    build = farm.build()
    farm.desk().give_up(claim(farm).lease)
    assert claim(farm).build == build
    farm.desk().give_up("no such lease")


def test_a_report_that_is_repeated_is_recorded_once(farm: QaFarm) -> None:
    farm.build()
    lease = claim(farm).lease
    first = farm.desk().report(lease, FAIL)
    farm.clock.now += 5
    assert farm.desk().report(lease, PASS) == first


def test_a_lease_is_of_whoever_claimed_it(farm: QaFarm) -> None:
    farm.build()
    lease = claim(farm, "aaaaaaaa").lease
    other = farm.desk("bbbbbbbb")
    other.give_up(lease)
    with pytest.raises(LeaseLostError):
        other.renew(lease)
    with pytest.raises(LeaseLostError):
        other.report(lease, PASS)
    assert farm.desk("aaaaaaaa").report(lease, PASS).token == "aaaaaaaa"


def test_verdicts_can_be_neither_changed_nor_deleted(farm: QaFarm) -> None:
    farm.build()
    farm.judge(FAIL)
    for statement in ("UPDATE verdicts SET outcome = 'pass'", "DELETE FROM verdicts"):
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):  # noqa: SIM117
            with farm.database.writing() as connection:
                connection.execute(statement)


@pytest.mark.parametrize("report", [PASS, FAIL, UNSURE])
def test_what_is_judged_is_not_tested_again(farm: QaFarm, report: Report) -> None:
    farm.build()
    farm.judge(report)
    assert isinstance(farm.desk().claim(FASTQA, "lab-1"), Idle)


def test_each_suite_judges_for_itself(farm: QaFarm) -> None:
    farm.build()
    farm.judge(PASS)
    idle = farm.desk().claim(DAILYQA, "lab-1")
    assert isinstance(idle, Idle)
    assert "fastqa has no build" in idle.reason


def test_logs_are_kept_and_bounded(farm: QaFarm) -> None:
    farm.build()
    verdict = farm.judge(FAIL)
    path = log_path(farm.repository, verdict.log)
    assert path.read_bytes() == b"it broke\n"
    assert path.stat().st_mode & 0o777 == 0o600
    farm.build("2")
    lease = claim(farm).lease
    large = Report(Finding(Outcome.PASS), 1, "lab-1", b"x" * (MAX_LOG + 1))
    with pytest.raises(LogTooLargeError):
        farm.desk().report(lease, large)
    with pytest.raises(ValueError, match="name of a log"):
        log_path(farm.repository, "../../../etc/passwd")


@pytest.mark.parametrize("holder", ["", "two\nlines", "x" * 201])
def test_a_holder_is_a_name(farm: QaFarm, holder: str) -> None:
    with pytest.raises(VerdictInvalidError):
        farm.desk().claim(FASTQA, holder)


def test_runners_in_several_processes_share_the_builds(farm: QaFarm) -> None:
    """Twelve builds, three processes that claim as fast as they can: each build goes to one."""
    builds = {farm.build(str(number)).hex() for number in range(12)}
    program = (
        "import json, sys, time; from pathlib import Path\n"
        "from hacktree.common.repository.repository import open_repository\n"
        "from support.qa import *\n"
        "sys.stdin.readline()\n"
        "repository = open_repository(Path(sys.argv[1]))\n"
        "suites = read_suites(repository)\n"
        "desk = LocalDesk(repository, open_database(repository), suites, time.time)\n"
        "found = []\n"
        "while isinstance(claimed := desk.claim('fastqa', 'x'), Assignment):\n"
        "    found.append(claimed.build.hex())\n"
        "print(json.dumps(found))\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(farm.repository.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [build for process in processes for build in json.loads(process.communicate()[0])]
    assert len(found) == len(builds)
    assert set(found) == builds
