"""The farm's side of promotions that are made and signed elsewhere: all of it is checked again."""

from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.common.objects.commit import decode_commit
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository
from hacktree.server.promotion import records
from hacktree.server.promotion.decision import Promote, decide
from hacktree.server.promotion.history import read_history, source_of
from hacktree.server.promotion.promoted import BY, REASON, NewCommit, Note, Place, promoted_commit
from hacktree.server.promotion.promoting import (
    Farm,
    Promoted,
    PromotionRefusedError,
    check_note,
    one_promotion,
    publish_promotion,
    require_free,
    standing_of_suite,
)
from hacktree.server.promotion.signing_messages import (
    FactsAnswer,
    SuiteFacts,
    hold_facts,
    verdict_facts,
)
from hacktree.server.promotion.suites import Suite
from hacktree.server.publication import (
    HeadMovedError,
    NewHead,
    WrongCommitError,
    describe_build,
    renew_head,
)

MAX_CLOCK_SKEW: Final = 3600
"""Seconds that a signer's clock may be off: schedules count from a promotion's time."""


class SignedPromotion(msgspec.Struct, frozen=True):
    """What a signer sends: an encoded commit, and the role that signs it (empty: unsigned farm)."""

    branch: BranchName
    commit: bytes
    role: bytes
    by_hand: bool


def facts_of(farm: Farm, suite: Suite | None, now: int) -> FactsAnswer:
    """What a signer can't learn from signatures."""
    with farm.database.reading() as connection:
        holds = tuple(hold_facts(hold) for hold in records.load_holds(connection))
    if suite is None:
        return FactsAnswer(None, (), holds, {})
    standing = standing_of_suite(farm, suite, read_history(farm.repository, suite), now)
    running = {build.hex(): who for build, who in (standing.running or {}).items()}
    return FactsAnswer(
        SuiteFacts(suite.source, suite.command, suite.limit, suite.every),
        tuple(verdict_facts(verdict) for verdict in standing.verdicts.values()),
        holds,
        running,
    )


def accept_promotion(farm: Farm, suite: Suite | None, sent: SignedPromotion, now: int) -> Promoted:
    """Publish a promotion that a signer made, if the farm would have made the very same.

    A head that is sent again with a newer signature is renewed; with the same, nothing happens.
    Raises `PromotionRefusedError`, `WrongCommitError`, `SignatureWrongError`, `HeadMovedError`,
    `FormatError`.
    """
    repository = farm.repository
    commit, head = decode_commit(sent.commit), hash_bytes(sent.commit)
    build = source_of(commit)
    if commit.branch != sent.branch or build is None:
        raise WrongCommitError(f"the commit is no promotion to {sent.branch}")
    with one_promotion(farm, sent.branch, now):
        current = read_ref(repository, sent.branch)
        if current == head:
            signed = NewHead(sent.branch, head, None, sent.role or None)
            renew_head(repository, signed, datetime.fromtimestamp(now, UTC))
            return Promoted(build, head, commit, repeated=True)
        if commit.parents != (() if current is None else (current,)):
            raise HeadMovedError(
                f"{sent.branch} is at {describe_build(repository, current)}, which the promotion "
                "does not follow",
                hint="Decide again.",
            )
        if not repository.has_meta(build):
            raise PromotionRefusedError(f"there is no build {build.hex()[:12]} here")
        new = _make_again(repository, sent, current, build, now)
        if sent.by_hand or suite is None:
            require_free(farm, suite, sent.branch, build, now)
        else:
            _require_passed(farm, suite, build, now)
        publish_promotion(farm, new, sent.role or None, now)
    return Promoted(build, head, commit)


def _make_again(
    repository: Repository,
    sent: SignedPromotion,
    current: ObjectId | None,
    build: ObjectId,
    now: int,
) -> NewCommit:
    """The promotion as the farm makes it; what was sent must be the same."""
    commit = decode_commit(sent.commit)
    if abs(commit.time - now) > MAX_CLOCK_SKEW:
        raise WrongCommitError(
            f"the commit's time is {abs(commit.time - now)} s away from the farm's",
            hint="Is the signer's clock right?",
        )
    note = Note(str(commit.metadata.get(REASON, "")), str(commit.metadata.get(BY, "")))
    check_note(note)
    parent = None if current is None else repository.load_commit(current)
    place = Place(sent.branch, current, parent)
    new = promoted_commit(place, build, repository.load_commit(build), note, commit.time)
    if new.encoded != sent.commit:
        raise WrongCommitError(
            f"the commit is not the one that promotes {build.hex()[:12]} to {sent.branch}",
            hint="Are signer and farm of the same version?",
        )
    return new


def _require_passed(farm: Farm, suite: Suite, build: ObjectId, now: int) -> None:
    """Refuse what the farm's own signer would not promote, were this the newest build."""
    standing = standing_of_suite(farm, suite, read_history(farm.repository, suite), now)
    known = {one.id: one for one in standing.builds}
    if build not in known:
        raise PromotionRefusedError(f"{build.hex()[:12]} is no later build of {suite.source}")
    until = [one for one in standing.builds if one.sequence <= known[build].sequence]
    decision = decide(suite, replace(standing, builds=until), now)
    if not isinstance(decision, Promote) or decision.build.id != build:
        reason = "another build is due" if isinstance(decision, Promote) else decision.reason
        raise PromotionRefusedError(f"{build.hex()[:12]} may not move on: {reason}")
