"""Promotion: a commit on the target with the tree of a build of the source, and its signature.

The commit comes first and moves the ref, then it is signed. Whoever is killed in between leaves a
head that nobody's key stands for; testers of a signed repository don't see it. The next promotion
finishes it first, after checking it as if it were to be made.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.committing import CommitRequest, CommitResult, commit_existing
from hacktree.common.repository.durable import make_directories
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import LOCK_TIMEOUT, Repository
from hacktree.common.trust.editing import (
    commit_length,
    head_signed,
    keys_of_branch,
    publish_branch,
    sign_head,
)
from hacktree.common.trust.store import TrustStore
from hacktree.server.database import Database
from hacktree.server.jobs import Kind, enqueue
from hacktree.server.promotion.decision import Decision, Promote, Standing, Stay, decide, hold_of
from hacktree.server.promotion.desk import standing_of
from hacktree.server.promotion.history import (
    History,
    build_of,
    history_from,
    published_head,
    read_history,
    source_of,
)
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Outcome, check_line

REASON: Final = "promotion-reason"
BY: Final = "promoted-by"
"""Names in a promoted commit's metadata."""

MAX_NOTE: Final = 500


class PromotionRefusedError(UserError):
    """The build may not be promoted to this branch."""


class KeyNeededError(UserError):
    """The repository is signed, and there is no key to sign the promotion with."""


class UnfinishedError(UserError):
    """The branch's head is not signed, and is none that this signer would have made."""


@dataclass(frozen=True, slots=True)
class Farm:
    """Where promotions are made. `signer`: the key of the suite, None for an unsigned farm."""

    repository: Repository
    database: Database
    signer: CryptoSigner | None = None


@dataclass(frozen=True, slots=True)
class Promoted:
    """`build` of the source is on the target as `head`; `finished`: it was, unsigned, before."""

    build: ObjectId
    head: ObjectId
    commit: Commit
    finished: bool = False


def promote_next(farm: Farm, suite: Suite, now: int) -> Promoted | Stay:
    """Promote what may be promoted at `now`, or finish what was begun; else why nothing moves.

    Raises `KeyNeededError`, `UnfinishedError`, `RefConflictError`, and as trust does.
    """
    require_key(farm, suite.target)
    with _promoting(farm):
        finished = _finish(farm, suite, now)
        if finished is not None:
            return finished
        decision = standing_decision(farm, suite, now)
        if not isinstance(decision, Promote):
            return decision
        verdict = decision.verdict
        reason = f"passed {suite.target}: verdict {verdict.number} of {verdict.machine}"
        return _promote(farm, suite.target, decision.build.id, (reason, "qa sign"), now)


def promote_by_hand(
    farm: Farm, suite: Suite | None, branch: BranchName, build: ObjectId, note: tuple[str, str],
    now: int,
) -> Promoted:  # fmt: skip
    """Promote a build whatever its verdicts say; `note`: a person's reason, and who it is.

    `suite`: the branch's, if it has one. Done before, but not signed: it is finished. Raises
    `PromotionRefusedError` for a build of another branch, a held one, and one that does not come
    after what was promoted last.
    """
    for text in note:
        check_line(text, MAX_NOTE, "reason")
    if not note[0]:
        raise PromotionRefusedError("a promotion by hand needs a reason", hint="--reason TEXT")
    require_key(farm, branch)
    with _promoting(farm):
        unsigned = _unsigned_head(farm, branch)
        carried = _carried(farm, branch, build)
        if carried is not None:
            if unsigned is not None:
                _require_follows(farm, branch, carried)
                _sign(farm, branch, carried, now)
            return Promoted(build, carried, farm.repository.load_commit(carried), finished=True)
        if unsigned is not None:
            raise UnfinishedError(
                f"the head of {branch}, {unsigned.hex()[:12]}, is not signed",
                hint=f"hacktree qa sign {branch}, or hacktree trust sign {branch}, finishes it.",
            )
        _require_free(farm, suite, branch, build, now)
        return _promote(farm, branch, build, note, now)


def standing_decision(farm: Farm, suite: Suite, now: int) -> Decision:
    """What `decide` says of a suite as things are."""
    return decide(suite, _standing(farm, suite, read_history(farm.repository, suite), now), now)


def require_key(farm: Farm, branch: BranchName) -> None:
    """Refuse before anything moves: an unsigned head would stop the branch."""
    store = TrustStore(farm.repository)
    if not store.exists:
        return
    if farm.signer is None:
        raise KeyNeededError(
            f"the farm is signed, and a promotion to {branch} needs its key",
            hint="--key FILE; `hacktree trust status` names the keys.",
        )
    if farm.signer.public_key.keyid not in keys_of_branch(store.load(), branch):
        raise KeyNeededError(
            f"the key {farm.signer.public_key.keyid[:16]} may not sign {branch}",
            hint=f"hacktree trust add-key {branch} --key FILE.pub",
        )


@contextmanager
def _promoting(farm: Farm) -> Iterator[None]:
    """One at a time: of two that decide at once, the slower would promote what is past."""
    make_directories(farm.repository.state, Path("qa"), mode=0o700)
    path = farm.repository.state / "qa" / "promoting.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE, timeout=LOCK_TIMEOUT):
        yield


def _promote(
    farm: Farm, branch: BranchName, build: ObjectId, note: tuple[str, str], now: int
) -> Promoted:
    original = farm.repository.load_commit(build)
    request = CommitRequest(
        branch=branch,
        time=now,
        subject=original.subject,
        body=original.body,
        version=original.version,
        architecture=original.architecture,
        metadata={REASON: note[0], BY: note[1]},
        # Whoever committed the build has been asked; here nobody is.
        allow_renumbering=True,
    )
    result: CommitResult = commit_existing(farm.repository, build, request)
    _sign(farm, branch, result.id, now)
    enqueue(farm.database, Kind.DELTAS, branch, now)
    return Promoted(build, result.id, result.commit)


def _sign(farm: Farm, branch: BranchName, head: ObjectId, now: int) -> None:
    store = TrustStore(farm.repository)
    if not store.exists or farm.signer is None:
        return
    moment = datetime.fromtimestamp(now, UTC)
    with store.hold():
        length = commit_length(store, head)
        role = sign_head(store.load(), branch, head, length, farm.signer, moment)
        publish_branch(store, branch, role, moment)


def _unsigned_head(farm: Farm, branch: BranchName) -> ObjectId | None:
    """The head of a branch, where it is signed at another commit or at none."""
    store = TrustStore(farm.repository)
    head = read_ref(farm.repository, branch)
    if head is None or not store.exists or head_signed(store.load(), branch) == head:
        return None
    return head


def _carried(farm: Farm, branch: BranchName, build: ObjectId) -> ObjectId | None:
    """The head of the branch, if it carries this build already."""
    head = read_ref(farm.repository, branch)
    if head is None:
        return None
    commit = farm.repository.load_commit(head)
    same_tree = commit.root == farm.repository.load_commit(build).root
    return head if source_of(commit) == build and same_tree else None


def _require_follows(farm: Farm, branch: BranchName, head: ObjectId) -> None:
    """A signature vouches for the builds before as well: they must have one."""
    if not _follows(farm, branch, farm.repository.load_commit(head)):
        raise UnfinishedError(
            f"{head.hex()[:12]} does not follow the head of {branch} that is signed",
            hint=f"See `hacktree log {branch}`; `hacktree trust sign {branch}` signs it all.",
        )


def _follows(farm: Farm, branch: BranchName, commit: Commit) -> bool:
    signed = published_head(farm.repository, branch)
    return commit.branch == branch and commit.parents == (() if signed is None else (signed,))


def _finish(farm: Farm, suite: Suite, now: int) -> Promoted | None:
    """Sign what an earlier run promoted and did not sign, if it is what a signer may make."""
    head = _unsigned_head(farm, suite.target)
    if head is None:
        return None
    commit = farm.repository.load_commit(head)
    build = source_of(commit)
    why = _why_not(farm, suite, commit, build, now)
    if why or build is None:
        raise UnfinishedError(
            f"the head of {suite.target}, {head.hex()[:12]}, is not signed, and is not signed "
            f"now: {why}",
            hint=f"If it is right: hacktree trust sign {suite.target} --key FILE.",
        )
    _sign(farm, suite.target, head, now)
    return Promoted(build, head, commit, finished=True)


def _why_not(farm: Farm, suite: Suite, commit: Commit, build: ObjectId | None, now: int) -> str:
    """Why a signer would not have made this commit; empty if it might have."""
    if build is None:
        return "it was not promoted from anywhere"
    if not _follows(farm, suite.target, commit):
        return "it does not follow the commit that is signed"
    before = history_from(farm.repository, suite, published_head(farm.repository, suite.target))
    known = {one.id: one for one in before.builds}
    if build not in known:
        return f"{build.hex()[:12]} is no build of {suite.source} after the last promoted one"
    if farm.repository.load_commit(build).root != commit.root:
        return f"its tree is not that of {build.hex()[:12]}"
    standing = _standing(farm, suite, before, now)
    if known[build].sequence <= (standing.promoted or 0):
        return f"{known[build]} is not newer than what was promoted before"
    hold = hold_of(known[build], standing.holds)
    if hold is not None:
        return f"{known[build]} is {hold}"
    verdict = standing.verdicts.get(build)
    if verdict is None or verdict.outcome is not Outcome.PASS:
        return f"{known[build]} has not passed {suite.target}"
    return ""


def _require_free(
    farm: Farm, suite: Suite | None, branch: BranchName, build: ObjectId, now: int
) -> None:
    """Refuse what a person may not do either."""
    commit = farm.repository.load_commit(build)
    if suite is None:
        if commit.branch == branch:
            raise PromotionRefusedError(f"{build.hex()[:12]} is a build of {branch} itself")
        return
    if commit.branch != suite.source:
        raise PromotionRefusedError(
            f"{build.hex()[:12]} is a build of {commit.branch}; {branch} is promoted from "
            f"{suite.source}",
            hint=f"`hacktree log {suite.source}` lists its builds.",
        )
    history = read_history(farm.repository, suite)
    standing = _standing(farm, suite, history, now)
    last = standing.promoted or 0
    if commit.sequence <= last or build not in {one.id for one in history.builds}:
        why = "not newer than" if commit.sequence <= last else "not in the history after"
        raise PromotionRefusedError(
            f"build {commit.sequence} is {why} build {last}, which {branch} carries",
            hint="A branch only moves on. To go back, commit the older tree as a new build.",
        )
    for hold in standing.holds:
        if hold.branch == branch or hold_of(build_of(farm.repository, build), [hold]):
            subject = branch if hold.branch == branch else build.hex()[:12]
            raise PromotionRefusedError(f"{subject} is {hold}", hint=f"hacktree release {subject}")


def _standing(farm: Farm, suite: Suite, history: History, now: int) -> Standing:
    with farm.database.reading() as connection:
        return standing_of(connection, suite, history, now)
