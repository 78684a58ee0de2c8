"""Which build may be promoted next, or why none. Pure.

A branch never moves back: only builds that come after the last one promoted are looked at. Of those
the newest that passed and is not held is promoted; older ones are passed over for good.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.moments import display_time
from hacktree.common.objects.names import BranchName
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Outcome, Verdict


class Build(msgspec.Struct, frozen=True):
    """A commit of the source branch. `origins`: the builds that it was promoted from in turn."""

    id: ObjectId
    sequence: int
    origins: tuple[ObjectId, ...] = ()

    def __str__(self) -> str:
        return f"build {self.sequence} ({self.id.hex()[:12]})"


class Hold(msgspec.Struct, frozen=True):
    """Somebody stopped a branch, or a build on its way. Exactly one of the two is set."""

    branch: BranchName | None
    build: ObjectId | None
    reason: str
    who: str
    time: int

    def __post_init__(self) -> None:
        if (self.branch is None) == (self.build is None):
            raise ValueError("a hold is on a branch or on a build")

    def __str__(self) -> str:
        return f"held by {self.who} since {display_time(self.time)}: {self.reason}"


class Retest(msgspec.Struct, frozen=True):
    """Somebody wants a build tested again: verdicts up to number `after` count no more."""

    build: ObjectId
    after: int
    reason: str
    who: str
    time: int

    def __str__(self) -> str:
        return f"to be tested again, {self.who} asked at {display_time(self.time)}: {self.reason}"


class Standing(msgspec.Struct, frozen=True):
    """How things are. `builds`: of the source branch, newest first, at least those after the last
    that was promoted; `verdicts`: those that count; `running`: who tests a build now; `retests`:
    the last for a build."""

    builds: Sequence[Build]
    verdicts: Mapping[ObjectId, Verdict]
    holds: Sequence[Hold] = ()
    running: Mapping[ObjectId, str] | None = None
    promoted: int | None = None
    """The sequence of the build of the source that was promoted last."""

    promoted_at: int | None = None
    """When, in seconds since 1970."""

    retests: Mapping[ObjectId, Retest] | None = None


class Cause(StrEnum):
    """Why a branch does not move, or a build does not."""

    EMPTY = "empty"
    UP_TO_DATE = "up-to-date"
    BRANCH_HELD = "branch-held"
    NOT_DUE = "not-due"
    HELD = "held"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    RUNNING = "running"
    UNTESTED = "untested"


class Blocker(msgspec.Struct, frozen=True):
    """A build that may not be promoted; `verdict`: which one says so, if it is one."""

    build: Build
    cause: Cause
    explanation: str
    verdict: Verdict | None = None


class Promote(msgspec.Struct, frozen=True):
    """`build` may be promoted; `verdict` is the pass."""

    build: Build
    verdict: Verdict


class Stay(msgspec.Struct, frozen=True):
    """The branch does not move. `blockers`: every later build that may not, newest first."""

    cause: Cause
    reason: str
    blockers: tuple[Blocker, ...] = ()
    waiting: Build | None = None
    """The build that would be promoted but for a hold of the branch, or its schedule."""


Decision = Promote | Stay


def decide(suite: Suite, standing: Standing, now: int) -> Decision:
    """Whether `suite.target` may move at `now` (seconds since 1970), and to which build."""
    after = later_builds(standing)
    if not after:
        return _nothing_later(suite, standing)
    blockers: list[Blocker] = []
    found: Promote | None = None
    for build in after:
        judged = _judge(suite, build, standing)
        if isinstance(judged, Promote):
            found = judged
            break
        blockers.append(judged)
    held = [hold for hold in standing.holds if hold.branch == suite.target]
    if held:
        waiting = None if found is None else found.build
        reason = f"{suite.target} is {held[0]}"
        return Stay(Cause.BRANCH_HELD, reason, tuple(blockers), waiting)
    if found is None:
        blocking = _telling(blockers)
        return Stay(blocking.cause, blocking.explanation, tuple(blockers))
    due = due_at(suite, standing)
    if due is not None and now < due:
        reason = f"{found.build} passed, and {suite.target} is due to move at {display_time(due)}"
        return Stay(Cause.NOT_DUE, reason, tuple(blockers), found.build)
    return found


def next_to_test(suite: Suite, standing: Standing, now: int) -> Build | Stay:
    """The newest build that nobody has judged, tests or holds, or why there is none.

    With a schedule tests begin so that one which takes all its time ends when the branch is due.
    """
    after = later_builds(standing)
    if not after:
        return _nothing_later(suite, standing)
    due = due_at(suite, standing)
    if due is not None and now < due - suite.limit:
        begin = int(due - suite.limit)
        return Stay(
            Cause.NOT_DUE, f"{suite.target} is not due: tests begin at {display_time(begin)}"
        )
    for build in after:
        judged = _judge(suite, build, standing)
        if isinstance(judged, Promote):
            # Whatever is older can't be promoted any more once this one is.
            return Stay(Cause.UP_TO_DATE, f"{build} has passed, and nothing later is untested")
        if judged.cause is Cause.UNTESTED:
            return build
    return Stay(Cause.UP_TO_DATE, f"no build of {suite.source} is untested and free")


def later_builds(standing: Standing) -> list[Build]:
    """The builds that come after the last one promoted, newest first."""
    after = [b for b in standing.builds if b.sequence > (standing.promoted or 0)]
    return sorted(after, key=lambda build: build.sequence, reverse=True)


def due_at(suite: Suite, standing: Standing) -> int | None:
    """When the schedule lets the branch move again; None for at once."""
    if suite.every is None or standing.promoted_at is None:
        return None
    return int(standing.promoted_at + suite.every)


def hold_of(build: Build, holds: Sequence[Hold]) -> Hold | None:
    """The hold on a build or on one that it was promoted from."""
    chain = {build.id, *build.origins}
    return next((hold for hold in holds if hold.build in chain), None)


def _judge(suite: Suite, build: Build, standing: Standing) -> Promote | Blocker:
    hold = hold_of(build, standing.holds)
    verdict = standing.verdicts.get(build.id)
    if hold is not None:
        return Blocker(build, Cause.HELD, f"{build} is {hold}", verdict)
    if verdict is None:
        tester = (standing.running or {}).get(build.id)
        retest = (standing.retests or {}).get(build.id)
        if tester is None and retest is not None:
            return Blocker(build, Cause.UNTESTED, f"{build} is {retest}")
        if tester is None:
            return Blocker(build, Cause.UNTESTED, f"{build} is not tested by {suite.target} yet")
        return Blocker(build, Cause.RUNNING, f"{build} is being tested on {tester}")
    if verdict.outcome is Outcome.PASS:
        return Promote(build, verdict)
    failed = verdict.outcome is Outcome.FAIL
    what = "failed" if failed else "was not decided by"
    where = f" on {verdict.machine}" if verdict.machine else ""
    return Blocker(
        build,
        Cause.FAILED if failed else Cause.INCONCLUSIVE,
        f"{build} {what} {suite.target}{where} at {display_time(verdict.time)} "
        f"(verdict {verdict.number}): {verdict.finding.reason}",
        verdict,
    )


def _telling(blockers: Sequence[Blocker]) -> Blocker:
    """The one to name first: the newest that is somebody's or some test's word, else the newest."""
    spoken = (Cause.HELD, Cause.FAILED, Cause.INCONCLUSIVE)
    return next((blocker for blocker in blockers if blocker.cause in spoken), blockers[0])


def _nothing_later(suite: Suite, standing: Standing) -> Stay:
    if not standing.builds:
        return Stay(Cause.EMPTY, f"{suite.source} has no build, or none that is signed")
    newest = max(standing.builds, key=lambda build: build.sequence)
    return Stay(Cause.UP_TO_DATE, f"{suite.source} has nothing newer than {newest}")
