"""Why a branch is where it is, and what it waits for: always answerable."""

from typing import Any

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.editing import head_signed
from hacktree.common.trust.store import TrustStore
from hacktree.server.database import Database
from hacktree.server.promotion import records
from hacktree.server.promotion.decision import (
    Blocker,
    Decision,
    Hold,
    Promote,
    decide,
    due_at,
)
from hacktree.server.promotion.desk import standing_of
from hacktree.server.promotion.history import Promotion, read_history
from hacktree.server.promotion.suites import Suite, Suites
from hacktree.server.promotion.suites import as_json as suite_as_json
from hacktree.server.promotion.verdicts import Verdict


class NoBranchError(UserError):
    """There is no branch of this name, and no suite promotes to one."""


class BranchStatus(msgspec.Struct, frozen=True):
    """`decision`, `last` and `due` are None without a suite; `signed`: None for an unsigned farm.

    `due`: when the schedule lets it move again, in seconds since 1970.
    """

    branch: BranchName
    head: ObjectId | None
    commit: Commit | None
    signed: bool | None
    suite: Suite | None = None
    decision: Decision | None = None
    last: Promotion | None = None
    due: int | None = None
    holds: tuple[Hold, ...] = ()

    @property
    def reason(self) -> str:
        """One sentence: why it does not move, or what moves next."""
        if self.signed is False:
            return (
                "its head is not signed; nothing is promoted until `hacktree trust sign` signs it"
            )
        if isinstance(self.decision, Promote):
            verdict = self.decision.verdict.number
            return f"{self.decision.build} passed (verdict {verdict}): the signer promotes it next"
        if self.decision is not None:
            return self.decision.reason
        return "no suite promotes to it: it moves when somebody commits or pushes"

    @property
    def cause(self) -> str:
        """`Cause`, or `moving`, `unsigned`, `no-suite`."""
        if self.signed is False:
            return "unsigned"
        if self.decision is None:
            return "no-suite"
        return "moving" if isinstance(self.decision, Promote) else self.decision.cause.value

    @property
    def blockers(self) -> tuple[Blocker, ...]:
        """Every later build that may not be promoted, newest first."""
        if self.decision is None or isinstance(self.decision, Promote):
            return ()
        return self.decision.blockers


def branch_status(
    repository: Repository, database: Database, suites: Suites, branch: BranchName, now: int
) -> BranchStatus:
    """How a branch is; raises `NoBranchError`."""
    head = read_ref(repository, branch)
    suite = suites.get(branch)
    if head is None and suite is None:
        raise NoBranchError(f"there is no branch {branch}", hint="`hacktree refs` lists them.")
    store = TrustStore(repository)
    signed = None
    if store.exists and head is not None:
        signed = head_signed(store.load(), branch) == head
    commit = None if head is None else repository.load_commit(head)
    if suite is None:
        return BranchStatus(branch, head, commit, signed)
    history = read_history(repository, suite)
    with database.reading() as connection:
        standing = standing_of(connection, suite, history, now)
        holds = tuple(hold for hold in records.load_holds(connection) if hold.branch == branch)
    return BranchStatus(
        branch, head, commit, signed, suite, decide(suite, standing, now), history.last,
        due_at(suite, standing), holds,
    )  # fmt: skip


def as_json(status: BranchStatus) -> dict[str, Any]:
    """For --json and the API."""
    commit, last = status.commit, status.last
    return {
        "branch": status.branch,
        "head": None if status.head is None else status.head.hex(),
        "sequence": None if commit is None else commit.sequence,
        "time": None if commit is None else commit.time,
        "signed": status.signed,
        "suite": None if status.suite is None else suite_as_json(status.suite),
        "promoted-from": None if last is None else last.source.hex(),
        "promoted-sequence": None if last is None else last.source_sequence,
        "promoted-at": None if last is None else last.time,
        "due": status.due,
        "moving": isinstance(status.decision, Promote),
        "cause": status.cause,
        "reason": status.reason,
        "blockers": [_blocker(blocker) for blocker in status.blockers],
    }


def verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    """For --json and the API."""
    return {
        "number": verdict.number,
        "build": verdict.build.hex(),
        "suite": verdict.suite,
        "outcome": verdict.outcome.value,
        "reason": verdict.finding.reason,
        "duration": verdict.duration,
        "machine": verdict.machine,
        "log": verdict.log,
        "token": verdict.token,
        "time": verdict.time,
    }


def _blocker(blocker: Blocker) -> dict[str, Any]:
    return {
        "build": blocker.build.id.hex(),
        "sequence": blocker.build.sequence,
        "cause": blocker.cause.value,
        "explanation": blocker.explanation,
        "verdict": None if blocker.verdict is None else verdict_as_json(blocker.verdict),
    }
