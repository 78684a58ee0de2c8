"""The four steps of a push on the server's side, as functions that block: HTTP is in `routes`."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from hacktree.common.objects.commit import Commit, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.push.framing import ObjectKey, ObjectKind
from hacktree.common.push.messages import BatchAnswer, OpenAnswer, OpenRequest
from hacktree.common.repository.config import parse_size
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.objectnames import published_name
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import publish_names, sync_staging, write_file
from hacktree.server.publication import (
    UNSIGNED,
    NewHead,
    WrongCommitError,
    check_follows,
    is_published,
    publish_head,
    published_version,
)
from hacktree.server.push.closure import check_closure, load_pushed_commit
from hacktree.server.push.journal import StagedObject
from hacktree.server.push.receiving import Allowance, QuotaExceededError
from hacktree.server.push.sessions import (
    Session,
    SessionRecord,
    create_session,
    expire_pushes,
    hold_session,
    push_id,
    usage_of,
)


class Opening(msgspec.Struct, frozen=True):
    """A request to open a push that decodes: the branch and commit that it names."""

    branch: BranchName
    commit: Commit
    commit_id: ObjectId
    encoded: bytes
    expected: ObjectId | None

    @classmethod
    def of(cls, request: OpenRequest, branch: BranchName) -> "Opening":
        """Raises `WrongCommitError` for bytes that are no commit."""
        try:
            commit = decode_commit(request.commit)
        except FormatError as error:
            raise WrongCommitError(f"the commit is not sound: {error.message}") from error
        expected = ObjectId(request.expected) if request.expected else None
        return cls(branch, commit, hash_bytes(request.commit), request.commit, expected)


def open_push(repository: Repository, token: str, opening: Opening, now: float) -> OpenAnswer:
    """Create the push, or find it again; an empty push where the commit is published.

    Raises `WrongCommitError`, `HeadMovedError`, `QuotaExceededError`.
    """
    expire_pushes(repository, now)
    if is_published(repository, opening.branch, opening.commit_id, opening.commit):
        return OpenAnswer(1, "", 0, 0, UNSIGNED)
    check_follows(repository, opening.branch, opening.commit, opening.expected)
    _check_quota(repository, token, opening)
    record = SessionRecord(1, token, opening.branch, opening.commit_id, opening.expected or b"", 0)
    name = create_session(repository, record)
    with hold_session(repository, name, token) as session:
        _stage_commit(session, opening)
        version = published_version(repository, opening.branch)
        return OpenAnswer(1, name, len(session.staged), session.stored, version)


def _check_quota(repository: Repository, token: str, opening: Opening) -> None:
    limits = repository.config.push
    this = push_id(token, opening.branch, opening.commit_id)
    usage = usage_of(repository, token, besides=this)
    if usage.pushes >= limits.max_open:
        raise QuotaExceededError(
            f"{usage.pushes} pushes of this token are open, which is all that it may have",
            hint=f"Finish them; what nobody goes on with ends after {limits.keep_hours:g} hours.",
        )


def _stage_commit(session: Session, opening: Opening) -> None:
    key = ObjectKey(ObjectKind.META, opening.commit_id)
    if key in session.staged:
        return
    # Not written in place: a killed server may have linked it into objects/.
    Path(session.path(key)).unlink(missing_ok=True)
    write_file(session.path(key), opening.encoded, 0o644)
    session.settle([StagedObject(key, len(opening.encoded), len(opening.encoded))])


def find_missing(session: Session, keys: Iterable[ObjectKey]) -> list[bool]:
    """For each object whether it has to be sent."""
    return [session.lacks(key) for key in keys]


def allowance_for(session: Session) -> Allowance:
    """What the session may still bring, by the token's quota and the commit's totals."""
    limits = session.repository.config.push
    usage = usage_of(
        session.repository,
        session.record.token,
        besides=session.directory.name.partition("-")[2],
    )
    totals = load_pushed_commit(session).totals
    contents = sum(s.size for s in session.staged.values() if s.key.kind is ObjectKind.FILE)
    return Allowance(
        limits.max_objects - usage.objects - len(session.staged),
        parse_size(limits.max_bytes) - usage.bytes - session.stored,
        totals.bytes - contents,
    )


def acknowledge(session: Session) -> BatchAnswer:
    """What is on disk now."""
    return BatchAnswer(1, len(session.staged), session.stored)


def finish_push(session: Session, role: bytes | None, now: datetime) -> ObjectId:
    """Check that the commit is whole, publish it and move the branch; returns the new head.

    Under the shared lock: what is found in objects/ can't be pruned before the ref holds it.
    Raises `ObjectsMissingError`, `WrongCommitError`, `HeadMovedError`.
    """
    repository, record = session.repository, session.record
    if record.state == 1:
        return record.commit
    with repository.lock(LockKind.SHARED):
        commit = load_pushed_commit(session)
        if not is_published(repository, record.branch_name, record.commit, commit):
            check_follows(repository, record.branch_name, commit, record.expected_head)
            needed = check_closure(session, commit)
            # Also what a killed attempt has linked into objects/ and not synced.
            sync_staging(session.directory)
            publish_names(repository, session.directory, [published_name(key) for key in needed])
            _publish_commit(session)
            head = NewHead(record.branch_name, record.commit, record.expected_head, role)
            publish_head(repository, head, now)
        session.mark_published()
    return record.commit


def _publish_commit(session: Session) -> None:
    key = ObjectKey(ObjectKind.META, session.record.commit)
    if key in session.staged:
        publish_names(session.repository, session.directory, [published_name(key)])
