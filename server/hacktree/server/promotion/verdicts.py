"""What a suite found out about a build, once and for all. Pure.

`0` passes, `125` says nothing about the build (as in `git bisect`), everything else fails, and so
does a command that is killed at its limit. A build may be judged again: a fail stands whatever
comes later, since a suite that passes now and then is no reason to promote.
"""

import signal
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName

INCONCLUSIVE_STATUS: Final = 125
MAX_REASON: Final = 1000
MAX_MACHINE: Final = 200


class VerdictInvalidError(UserError):
    """No verdict can be like this."""


class Outcome(StrEnum):
    """What a verdict says of the build."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Finding(msgspec.Struct, frozen=True):
    """An outcome and, unless it passed, why. Raises `VerdictInvalidError`."""

    outcome: Outcome
    reason: str = ""

    def __post_init__(self) -> None:
        check_line(self.reason, MAX_REASON, "reason")
        if self.outcome is not Outcome.PASS and not self.reason:
            raise VerdictInvalidError(f"a verdict {self.outcome} needs a reason")


class Verdict(msgspec.Struct, frozen=True):
    """An immutable record: `build` was judged by `suite`. Raises `VerdictInvalidError`.

    `duration` in seconds; `machine`: where it ran; `log`: the sha256 of what the command wrote,
    empty without one; `token`: the id of the token that reported it, empty on the server itself;
    `time`: when it was recorded, in seconds since 1970. `number` counts the verdicts.
    """

    number: int
    build: ObjectId
    suite: BranchName
    finding: Finding
    duration: float
    machine: str
    log: str
    token: str
    time: int

    def __post_init__(self) -> None:
        check_line(self.machine, MAX_MACHINE, "machine")
        if not 0 <= self.duration < float("inf"):
            raise VerdictInvalidError("a verdict's duration is not negative")

    @property
    def outcome(self) -> Outcome:
        """What it says of the build."""
        return self.finding.outcome


def judge_exit(status: int) -> Finding:
    """What the exit status of a suite's command says; negative: the signal that ended it."""
    if status == 0:
        return Finding(Outcome.PASS)
    if status == INCONCLUSIVE_STATUS:
        return Finding(Outcome.INCONCLUSIVE, f"exit status {INCONCLUSIVE_STATUS}")
    if status < 0:
        return Finding(Outcome.FAIL, f"killed by {_signal_name(-status)}")
    return Finding(Outcome.FAIL, f"exit status {status}")


def judge_timeout(limit: float) -> Finding:
    """What it says that the command went on for longer than `limit` seconds."""
    return Finding(Outcome.FAIL, f"killed: it took longer than {limit:g} s")


def standing_verdict(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Which of a suite's verdicts on one build counts: the first fail, else pass, else any."""
    order = (Outcome.FAIL, Outcome.PASS, Outcome.INCONCLUSIVE)
    return min(verdicts, key=lambda v: (order.index(v.outcome), v.number), default=None)


def check_line(text: str, limit: int, what: str) -> None:
    """Raise `VerdictInvalidError` unless `text` is one line of printable characters."""
    if len(text) > limit or not text.isprintable():
        raise VerdictInvalidError(f"a {what} is one line of at most {limit} characters")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
