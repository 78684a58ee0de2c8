"""One turn of a runner: claim a build, bring it here, test it, report, and leave nothing behind."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from hacktree.server.promotion.command import (
    GRACE_SECONDS,
    Heartbeat,
    Job,
    run_command,
    suite_environment,
)
from hacktree.server.promotion.desk import Assignment, Desk, Idle, Report
from hacktree.server.promotion.scratch import scratch_root
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Verdict

_BEATS: Final = 4
"""Renewals within the life of a lease, so that some may come late or be lost."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A machine that tests. `repository`: where builds are checked out from.

    `fetch` brings a build of a suite's source there; `machine` is named in leases and verdicts;
    `monotonic` counts seconds; `grace`: seconds between SIGTERM and SIGKILL.
    """

    desk: Desk
    repository: Repository
    fetch: Callable[[Suite, ObjectId], None]
    machine: str
    monotonic: Callable[[], float] = time.monotonic
    grace: float = GRACE_SECONDS


def judge_next(runner: Runner, suite: str, told: Callable[[Assignment], None]) -> Verdict | Idle:
    """Test the newest build that is untested and free, if there is one; `told` what was claimed.

    Raises `LeaseLostError` when the build was given to another; a build that can't be brought here
    or checked out, or whose command is missing, is given up without a verdict.
    """
    claimed = runner.desk.claim(suite, runner.machine)
    if isinstance(claimed, Idle):
        return claimed
    told(claimed)
    try:
        report = _test(runner, claimed)
        return runner.desk.report(claimed.lease, report)
    except BaseException:
        runner.desk.give_up(claimed.lease)
        raise


def _test(runner: Runner, claimed: Assignment) -> Report:
    suite = claimed.suite
    runner.fetch(suite, claimed.build)
    runner.desk.renew(claimed.lease)
    with scratch_root(runner.repository, claimed.build) as (root, scratch):
        job = Job(
            suite.command,
            suite_environment(root, claimed.build.hex(), suite.source, scratch),
            scratch,
            suite.limit,
            runner.grace,
        )
        beat = Heartbeat(lambda: runner.desk.renew(claimed.lease), claimed.seconds / _BEATS)
        run = run_command(job, beat, runner.monotonic)
    return Report(run.finding, run.duration, runner.machine, run.log)
