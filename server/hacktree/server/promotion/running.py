"""One turn of a runner: claim a build, bring it here, test it, report, and leave nothing behind."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from hacktree.common.errors import BusyError, PeerError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from hacktree.server.database import DatabaseBusyError
from hacktree.server.promotion.command import (
    GRACE_SECONDS,
    Heartbeat,
    Job,
    run_command,
    suite_environment,
)
from hacktree.server.promotion.desk import Assignment, Desk, Idle, Report
from hacktree.server.promotion.machine.kernel import UnfitBuildError
from hacktree.server.promotion.sandbox import UNCONFINED, Confinement
from hacktree.server.promotion.scratch import scratch_root
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Verdict

T = TypeVar("T")

_BEATS: Final = 4
"""Renewals within the life of a lease, so that some may come late or be lost."""


class Runner(msgspec.Struct, frozen=True):
    """A machine that tests. `repository`: where builds are checked out from.

    `fetch` brings a build of a suite's source there; `machine` is named in leases and verdicts;
    `confinement`: of the command; `monotonic` counts seconds; `grace`: seconds between SIGTERM and
    SIGKILL.
    """

    desk: Desk
    repository: Repository
    fetch: Callable[[Suite, ObjectId], None]
    machine: str
    confinement: Confinement = UNCONFINED
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
    with _giving_up(runner.desk, claimed.lease):
        told(claimed)
        return _test(runner, claimed)


@contextmanager
def _giving_up(desk: Desk, lease: str) -> Iterator[None]:
    """After a failure another may have the build at once; a lease that was used up is gone."""
    try:
        yield
    except BaseException:
        with suppress(PeerError, BusyError):
            desk.give_up(lease)
        raise


def _test(runner: Runner, claimed: Assignment) -> Verdict:
    suite, build = claimed.suite, claimed.build
    keeper = _Keeper(runner, claimed)
    keeper.during(lambda: runner.fetch(suite, build))
    with ExitStack() as stack:
        root, scratch = keeper.during(
            lambda: stack.enter_context(scratch_root(runner.repository, build))
        )
        environment = suite_environment(root, build.hex(), suite.source, scratch)
        job = Job(suite.command, environment, scratch, suite.limit, runner.grace)
        confined = runner.confinement.confined(job, runner.repository, build, root)
        try:
            job = keeper.during(lambda: stack.enter_context(confined))
        except UnfitBuildError as error:
            return runner.desk.report(claimed.lease, Report(error.finding, 0, runner.machine))
        heartbeat = Heartbeat(keeper.renew, keeper.seconds)
        run = run_command(job, heartbeat, runner.monotonic)
        # Before the scratch root is removed: if that fails, the verdict is not lost.
        report = Report(run.finding, run.duration, runner.machine, run.log)
        return runner.desk.report(claimed.lease, report)


@dataclass(slots=True)
class _Keeper:
    """Keeps a lease while the runner is busy; an unreachable farm is borne as long as it lasts."""

    runner: Runner
    claimed: Assignment
    _renewed: float = field(init=False)

    def __post_init__(self) -> None:
        self._renewed = self.runner.monotonic()

    @property
    def seconds(self) -> float:
        """Between renewals."""
        return self.claimed.seconds / _BEATS

    def renew(self) -> None:
        """Renew it; raises `LeaseLostError`, or what has gone wrong since the lease was good."""
        now = self.runner.monotonic()
        try:
            self.runner.desk.renew(self.claimed.lease)
        except (PeerError, DatabaseBusyError):
            if now - self._renewed >= self.claimed.seconds:
                raise
        else:
            self._renewed = now

    def during(self, work: Callable[[], T]) -> T:
        """The result of `work`, which runs in a thread of its own and is always waited for."""
        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(work)
            while True:
                with suppress(NotDoneError):
                    return future.result(self.seconds)
                if future.done():
                    return future.result()
                self.renew()
