"""Holds: a person stops a branch, or one build on its way, and says why."""

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve
from hacktree.server.database import Database
from hacktree.server.jobs import FARM, Kind, ask
from hacktree.server.promotion import records
from hacktree.server.promotion.decision import Hold
from hacktree.server.promotion.suites import Suites
from hacktree.server.promotion.verdicts import check_line

_MAX_REASON = 500


class HoldInvalidError(UserError):
    """There is nothing to hold there, or no reason is given."""


class NotHeldError(UserError):
    """There is no hold to release."""


class Subject(msgspec.Struct, frozen=True):
    """What is held: a branch, or a build. Exactly one is set."""

    branch: BranchName | None
    build: ObjectId | None

    def __str__(self) -> str:
        return str(self.branch) if self.build is None else self.build.hex()[:12]


def find_subject(repository: Repository, suites: Suites, text: str) -> Subject:
    """The suite's branch or the build that `text` names; raises `HoldInvalidError`."""
    if text in suites:
        return Subject(BranchName(text), None)
    if text in list_refs(repository):
        raise HoldInvalidError(
            f"no suite promotes to {text}, so nothing would be held",
            hint=f"To hold its newest build: {text}~0.",
        )
    return Subject(None, resolve(repository, text))


def hold(database: Database, subject: Subject, reason: str, who: str, now: int) -> Hold:
    """Stop a branch, or a build and whatever is promoted from it, until it is released."""
    _check_note(reason, who)
    made = Hold(subject.branch, subject.build, reason, who, now)
    with database.writing() as connection:
        records.add_hold(connection, made)
        ask(connection, Kind.DASHBOARD, FARM, now)
    return made


def release(database: Database, subject: Subject, reason: str, who: str, now: int) -> int:
    """End the holds on a branch or build; returns how many. Raises `NotHeldError`."""
    _check_note(reason, who)
    with database.writing() as connection:
        ended = records.release_holds(connection, subject.branch, subject.build, (now, who, reason))
        ask(connection, Kind.DASHBOARD, FARM, now)
    if not ended:
        raise NotHeldError(f"{subject} is not held", hint="`hacktree branch status` shows holds.")
    return ended


def _check_note(reason: str, who: str) -> None:
    if not reason.strip():
        raise HoldInvalidError("a reason is needed", hint="--reason TEXT")
    check_line(reason, _MAX_REASON, "reason")
    check_line(who, _MAX_REASON, "name")
