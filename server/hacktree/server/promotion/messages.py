"""What runners and the farm say to each other, as JSON. docs/format.md, "API"."""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.objects.ids import parse_object_id
from hacktree.common.objects.names import MAX_BRANCH_LENGTH, parse_branch_name
from hacktree.server.promotion.desk import Assignment, Idle, Report
from hacktree.server.promotion.logs import MAX_LOG
from hacktree.server.promotion.suites import Suite, SuiteInvalidError
from hacktree.server.promotion.verdicts import (
    MAX_MACHINE,
    MAX_REASON,
    Finding,
    Outcome,
    Verdict,
    VerdictInvalidError,
)

MAX_MESSAGE: Final = 2 * MAX_LOG
"""Bytes of a message: a log is base64 in it."""

MAX_SMALL: Final = 16 << 10

BRANCH: Final = "[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*"
"""What a branch's name looks like, for paths and documents; `parse_branch_name` decides."""

T = TypeVar("T")

Revision = Annotated[str, Meta(min_length=1, max_length=MAX_MACHINE)]
# In Python `$` is also before a newline at the end; JSON Schema knows no \Z.
Machine = Annotated[str, Meta(min_length=1, max_length=MAX_MACHINE, pattern="^[ -~]+$(?!\\n)")]
SuiteName = Annotated[str, Meta(max_length=MAX_BRANCH_LENGTH, pattern=f"^{BRANCH}$(?!\\n)")]


class ClaimRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A runner on `holder` asks for a build."""

    suite: SuiteName
    holder: Machine


class VerdictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a runner found out."""

    outcome: Outcome
    reason: Annotated[str, Meta(max_length=MAX_REASON)]
    duration: Annotated[float, Meta(ge=0)]
    machine: Machine
    log: Annotated[bytes, Meta(max_length=MAX_LOG)] = b""

    def report(self) -> Report:
        """As the desk takes it; raises `FormatError`."""
        try:
            return Report(Finding(self.outcome, self.reason), self.duration, self.machine, self.log)
        except VerdictInvalidError as error:
            raise FormatError(error.message) from error


class HoldRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hold, or release, a branch or a build."""

    subject: Revision
    reason: Annotated[str, Meta(max_length=MAX_REASON)]


class RetestRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Test a build again: `build` is empty for the newest that the suite did not pass."""

    suite: SuiteName
    reason: Annotated[str, Meta(max_length=MAX_REASON)]
    build: Annotated[str, Meta(max_length=MAX_MACHINE)] = ""


class RetestAnswer(msgspec.Struct, frozen=True):
    """The build that is tested again."""

    build: str


class PromoteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Promote a build by hand."""

    branch: SuiteName
    commit: Revision
    reason: Annotated[str, Meta(max_length=MAX_REASON)]


class PromoteAnswer(msgspec.Struct, frozen=True, rename="kebab"):
    """The branch's head, and the build that it carries."""

    head: str
    promoted_from: str


class SuiteAnswer(msgspec.Struct, frozen=True):
    """What to run on the build."""

    target: str
    source: str
    command: tuple[str, ...]
    limit: float


class ClaimAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lease of `seconds` on `build`, or `idle`: why there is nothing to test."""

    idle: str = ""
    lease: str = ""
    build: str = ""
    sequence: int = 0
    seconds: int = 0
    suite: SuiteAnswer | None = None

    def claimed(self) -> Assignment | Idle:
        """As a runner takes it; raises `FormatError`."""
        if self.suite is None:
            return Idle(self.idle)
        try:
            build = parse_object_id(self.build)
            target, source = (
                parse_branch_name(self.suite.target),
                parse_branch_name(self.suite.source),
            )
            suite = Suite(target, source, self.suite.command, self.suite.limit)
        except (NameInvalidError, SuiteInvalidError) as error:
            raise FormatError(f"not an assignment: {error.message}") from error
        if self.seconds < 1:
            raise FormatError("an assignment's lease has expired already")
        return Assignment(self.lease, build, self.sequence, suite, self.seconds)


class VerdictAnswer(msgspec.Struct, frozen=True):
    """The verdict as it is recorded."""

    number: int
    build: str
    suite: str
    outcome: Outcome
    reason: str
    duration: float
    machine: str
    log: str
    token: str
    time: int

    def verdict(self) -> Verdict:
        """As the desk returns it; raises `FormatError`."""
        try:
            return Verdict(
                self.number, parse_object_id(self.build), parse_branch_name(self.suite),
                Finding(self.outcome, self.reason), self.duration, self.machine, self.log,
                self.token, self.time,
            )  # fmt: skip
        except (NameInvalidError, VerdictInvalidError) as error:
            raise FormatError(f"not a verdict: {error.message}") from error


class SuiteStatus(msgspec.Struct, frozen=True, rename="kebab"):
    """A suite, in a branch's status."""

    name: str
    source: str
    command: tuple[str, ...]
    limit_seconds: float
    every_seconds: float | None


class BlockerStatus(msgspec.Struct, frozen=True, rename="kebab"):
    """A build that may not be promoted, and why."""

    build: str
    sequence: int
    cause: str
    explanation: str
    verdict: VerdictAnswer | None


class StatusAnswer(msgspec.Struct, frozen=True, rename="kebab"):
    """Where a branch is and why it does not move: what `branch status --json` prints."""

    branch: str
    head: str | None
    sequence: int | None
    time: int | None
    signed: bool | None
    suite: SuiteStatus | None
    promoted_from: str | None
    promoted_sequence: int | None
    promoted_at: int | None
    due: int | None
    moving: bool
    cause: str
    reason: str
    blockers: tuple[BlockerStatus, ...]


def claim_answer(claimed: Assignment | Idle) -> ClaimAnswer:
    """What the farm answers."""
    if isinstance(claimed, Idle):
        return ClaimAnswer(idle=claimed.reason)
    suite = claimed.suite
    return ClaimAnswer(
        lease=claimed.lease,
        build=claimed.build.hex(),
        sequence=claimed.sequence,
        seconds=claimed.seconds,
        suite=SuiteAnswer(suite.target, suite.source, suite.command, suite.limit),
    )


def verdict_request(report: Report) -> VerdictRequest:
    """What a runner sends."""
    finding = report.finding
    return VerdictRequest(
        finding.outcome, finding.reason, report.duration, report.machine, report.log
    )


def encode(message: Any) -> bytes:
    """The JSON of a message."""
    return msgspec.json.encode(message)


def decode(kind: type[T], data: bytes) -> T:
    """The message in `data`; raises `FormatError`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"not a message: {error}") from error
