"""Promotion: a commit on the target with the tree of a build of the source, and its signature.

The commit is stored first, then `publish_head` signs and moves the branch, as after a push: one
commit point, and one way to complete what a crash cut off (`recover_heads`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from securesystemslib.signer import CryptoSigner

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.durable import make_directories
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import LOCK_TIMEOUT, Repository
from hacktree.common.repository.transaction import begin_transaction
from hacktree.common.trust.editing import head_signed, keys_of_branch, sign_head
from hacktree.common.trust.store import TrustStore
from hacktree.server.database import Database
from hacktree.server.jobs import enqueue_publication
from hacktree.server.promotion import records
from hacktree.server.promotion.decision import Decision, Promote, Standing, Stay, decide, hold_of
from hacktree.server.promotion.desk import standing_of
from hacktree.server.promotion.history import History, build_of, read_history, source_of
from hacktree.server.promotion.promoted import NewCommit, Note, Place, promoted_commit
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import check_line
from hacktree.server.publication import NewHead, publish_head, recover_heads

MAX_NOTE: Final = 500


class PromotionRefusedError(UserError):
    """The build may not be promoted to this branch."""


class KeyNeededError(UserError):
    """The repository is signed, and there is no key to sign the promotion with."""


class HeadUnsignedError(UserError):
    """Somebody committed to the branch and did not sign: no promotion may follow that."""


class Farm(msgspec.Struct, frozen=True):
    """Where promotions are made. `signer`: the key of the suite, None for an unsigned farm."""

    repository: Repository
    database: Database
    signer: CryptoSigner | None = None


class Promoted(msgspec.Struct, frozen=True):
    """`build` of the source is on the target as `head`; `repeated`: it was before."""

    build: ObjectId
    head: ObjectId
    commit: Commit
    repeated: bool = False


def promote_next(farm: Farm, suite: Suite, now: int) -> Promoted | Stay:
    """Promote what may be promoted at `now`; else why nothing moves.

    Raises `KeyNeededError`, `HeadUnsignedError`, `RefConflictError`, and as trust does.
    """
    require_key(farm, suite.target)
    with one_promotion(farm, suite.target, now):
        decision = standing_decision(farm, suite, now)
        if not isinstance(decision, Promote):
            return decision
        return _promote(farm, suite.target, decision.build.id, note_of(suite, decision), now)


def note_of(suite: Suite, decision: Promote) -> Note:
    """What the commit says of a promotion that nobody asked for by hand."""
    verdict = decision.verdict
    reason = f"passed {suite.target}: verdict {verdict.number} of {verdict.machine}"
    return Note(reason, "qa sign")


def promote_by_hand(
    farm: Farm, suite: Suite | None, branch: BranchName, build: ObjectId, note: Note, now: int
) -> Promoted:
    """Promote a build whatever its verdicts say; `note`: a person's reason, and who it is.

    `suite`: the branch's, if it has one. Nothing happens if the head carries the build already.
    Raises `PromotionRefusedError` for a build of another branch, a held one, and one that does not
    come after what was promoted last.
    """
    check_note(note)
    require_key(farm, branch)
    with one_promotion(farm, branch, now):
        carried = _carried(farm, branch, build)
        if carried is not None:
            return Promoted(build, carried, farm.repository.load_commit(carried), repeated=True)
        require_free(farm, suite, branch, build, now)
        return _promote(farm, branch, build, note, now)


def check_note(note: Note) -> None:
    """Refuse a promotion by hand without a reason, or with more than a line."""
    for text in (note.reason, note.by):
        check_line(text, MAX_NOTE, "reason")
    if not note.reason:
        raise PromotionRefusedError("a promotion by hand needs a reason", hint="--reason TEXT")


def standing_decision(farm: Farm, suite: Suite, now: int) -> Decision:
    """What `decide` says of a suite as things are."""
    return decide(
        suite, standing_of_suite(farm, suite, read_history(farm.repository, suite), now), now
    )


def require_key(farm: Farm, branch: BranchName) -> None:
    """Refuse before anything moves: an unsigned head would stop the branch."""
    store = TrustStore(farm.repository)
    if not store.exists:
        return
    if farm.signer is None:
        raise KeyNeededError(
            f"the farm is signed, and a promotion to {branch} needs its key",
            hint="--sign-with FILE; `hacktree trust status` names the keys.",
        )
    if farm.signer.public_key.keyid not in keys_of_branch(store.load(), branch):
        raise KeyNeededError(
            f"the key {farm.signer.public_key.keyid[:16]} may not sign {branch}",
            hint=f"hacktree trust add-key {branch} --key FILE.pub",
        )


@contextmanager
def one_promotion(farm: Farm, branch: BranchName, now: int) -> Iterator[None]:
    """One at a time: of two that decide at once, the slower would promote what is past.

    What a crash cut off is completed first. Raises `HeadUnsignedError`.
    """
    make_directories(farm.repository.state, Path("qa"), mode=0o700)
    path = farm.repository.state / "qa" / "promoting.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE, timeout=LOCK_TIMEOUT):
        for moved in recover_heads(farm.repository):
            enqueue_publication(farm.database, moved, now)
        _require_signed_head(farm.repository, branch)
        yield


def _promote(farm: Farm, branch: BranchName, build: ObjectId, note: Note, now: int) -> Promoted:
    repository = farm.repository
    head = read_ref(repository, branch)
    place = Place(branch, head, None if head is None else repository.load_commit(head))
    new = promoted_commit(place, build, repository.load_commit(build), note, now)
    publish_promotion(farm, new, _role(farm, branch, new, now), now)
    return Promoted(build, new.id, new.commit)


def publish_promotion(farm: Farm, new: NewCommit, role: bytes | None, now: int) -> None:
    """Store a promoted commit, whose tree is here, and make it its branch's head."""
    branch = new.commit.branch_name
    expected = new.commit.parents[0] if new.commit.parents else None
    with begin_transaction(farm.repository) as transaction:
        transaction.put_commit(new.encoded)
        transaction.publish()
        head = NewHead(branch, new.id, expected, role)
        publish_head(farm.repository, head, datetime.fromtimestamp(now, UTC))
    enqueue_publication(farm.database, branch, now)


def _role(farm: Farm, branch: BranchName, new: NewCommit, now: int) -> bytes | None:
    store = TrustStore(farm.repository)
    if not store.exists or farm.signer is None:
        return None
    moment = datetime.fromtimestamp(now, UTC)
    role = sign_head(store.load(), branch, new.id, len(new.encoded), farm.signer, moment)
    data: bytes = role.to_bytes()
    return data


def _require_signed_head(repository: Repository, branch: BranchName) -> None:
    """A signature vouches for the builds before as well: they must have one."""
    store = TrustStore(repository)
    head = read_ref(repository, branch)
    if head is None or not store.exists or head_signed(store.load(), branch) == head:
        return
    raise HeadUnsignedError(
        f"the head of {branch}, {head.hex()[:12]}, is not signed: it was not promoted",
        hint=f"See `hacktree log {branch}`. If it is right: hacktree trust sign {branch} --key "
        "FILE.",
    )


def _carried(farm: Farm, branch: BranchName, build: ObjectId) -> ObjectId | None:
    """The head of the branch, if it carries this build already."""
    head = read_ref(farm.repository, branch)
    if head is None:
        return None
    commit = farm.repository.load_commit(head)
    same_tree = commit.root == farm.repository.load_commit(build).root
    return head if source_of(commit) == build and same_tree else None


def require_free(
    farm: Farm, suite: Suite | None, branch: BranchName, build: ObjectId, now: int
) -> None:
    """Refuse what a person may not do either; raises `PromotionRefusedError`."""
    _require_later(farm, suite, branch, build, now)
    with farm.database.reading() as connection:
        holds = records.load_holds(connection)
    for hold in holds:
        # A hold of a branch whose suite is gone could not be released.
        whole = suite is not None and hold.branch == branch
        if whole or hold_of(build_of(farm.repository, build), [hold]):
            subject = branch if whole else build.hex()[:12]
            raise PromotionRefusedError(f"{subject} is {hold}", hint=f"hacktree release {subject}")


def _require_later(
    farm: Farm, suite: Suite | None, branch: BranchName, build: ObjectId, now: int
) -> None:
    """Refuse a build of another branch than the suite's source, and one that is not later."""
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
    standing = standing_of_suite(farm, suite, history, now)
    last = standing.promoted or 0
    if commit.sequence <= last or build not in {one.id for one in history.builds}:
        why = "not newer than" if commit.sequence <= last else "not in the history after"
        raise PromotionRefusedError(
            f"build {commit.sequence} is {why} build {last}, which {branch} carries",
            hint="A branch only moves on. To go back, commit the older tree as a new build.",
        )


def standing_of_suite(farm: Farm, suite: Suite, history: History, now: int) -> Standing:
    """How things are for a suite."""
    with farm.database.reading() as connection:
        return standing_of(connection, suite, history, now)
