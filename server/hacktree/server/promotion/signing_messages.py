"""What a signer elsewhere and the farm say to each other, as JSON. docs/format.md, "API"."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hacktree.common.objects.commit import MAX_COMMIT_SIZE
from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.trust.editing import MAX_ROLE
from hacktree.server.promotion.decision import Hold
from hacktree.server.promotion.messages import SuiteName, VerdictAnswer
from hacktree.server.promotion.status import verdict_as_json
from hacktree.server.promotion.suites import Suite, SuiteInvalidError
from hacktree.server.promotion.verdicts import Verdict

MAX_FACTS: Final = 8 << 20
"""Bytes of the facts about a branch: a thousand verdicts at most."""

MAX_PROMOTION: Final = 6 << 20
"""Bytes of a promotion: commit and role are base64 in it."""


class SuiteFacts(msgspec.Struct, frozen=True):
    """The suite of a branch."""

    source: str
    command: tuple[str, ...]
    limit: float
    every: float | None


class HoldFacts(msgspec.Struct, frozen=True):
    """A hold in force."""

    branch: str | None
    build: str | None
    reason: str
    who: str
    time: int


class FactsAnswer(msgspec.Struct, frozen=True):
    """What the farm knows that no signature says: the suite, verdicts that count, and holds.

    `running`: who tests a build now, by the build's id.
    """

    suite: SuiteFacts | None
    verdicts: tuple[VerdictAnswer, ...]
    holds: tuple[HoldFacts, ...]
    running: dict[str, str]

    def suite_of(self, target: BranchName) -> Suite | None:
        """The suite that promotes to `target`; raises `FormatError`."""
        if self.suite is None:
            return None
        try:
            source = parse_branch_name(self.suite.source)
            return Suite(target, source, self.suite.command, self.suite.limit, self.suite.every)
        except (NameInvalidError, SuiteInvalidError) as error:
            raise FormatError(f"not a suite: {error.message}") from error

    def verdicts_of(self, target: BranchName) -> dict[ObjectId, Verdict]:
        """Those of the suite of `target`, by build; raises `FormatError`."""
        verdicts = [answer.verdict() for answer in self.verdicts]
        return {verdict.build: verdict for verdict in verdicts if verdict.suite == target}

    def all_holds(self) -> list[Hold]:
        """The holds in force; raises `FormatError`."""
        try:
            return [
                Hold(
                    None if hold.branch is None else parse_branch_name(hold.branch),
                    None if hold.build is None else parse_object_id(hold.build),
                    hold.reason, hold.who, hold.time,
                )
                for hold in self.holds
            ]  # fmt: skip
        except (NameInvalidError, ValueError) as error:
            raise FormatError(f"not a hold: {error}") from error

    def testers(self) -> dict[ObjectId, str]:
        """Who tests which build; raises `FormatError`."""
        try:
            return {parse_object_id(build): who for build, who in self.running.items()}
        except NameInvalidError as error:
            raise FormatError(f"not a build: {error.message}") from error


class PromotionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A promotion that is made and signed: the encoded commit and the branch's next role.

    `by_hand`: a person decided it, whatever the verdicts say.
    """

    branch: SuiteName
    commit: Annotated[bytes, Meta(min_length=1, max_length=MAX_COMMIT_SIZE)]
    role: Annotated[bytes, Meta(max_length=MAX_ROLE)]
    by_hand: bool = False


class PromotionAnswer(msgspec.Struct, frozen=True):
    """The branch's head; `repeated`: it was that before."""

    head: str
    repeated: bool


def hold_facts(hold: Hold) -> HoldFacts:
    """A hold as it is sent."""
    build = None if hold.build is None else hold.build.hex()
    return HoldFacts(hold.branch, build, hold.reason, hold.who, hold.time)


def verdict_facts(verdict: Verdict) -> VerdictAnswer:
    """A verdict as it is sent."""
    return msgspec.convert(verdict_as_json(verdict), VerdictAnswer)
