"""Pushes in progress, each a directory `tmp/push-<id>`: they outlive the server.

A directory holds `session` (whose push of what it is; its mtime is when it was last used), the
journal, and the staged objects under the names that `publish_names` expects. Whoever works on one
holds the directory's lock; the cleaners of other staging go by other prefixes.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.errors import CorruptError, HacktreeError
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, WireObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.push.framing import ObjectKey
from hacktree.common.push.messages import OptionalId
from hacktree.common.repository.durable import sync_directory, write_durably
from hacktree.common.repository.locks import LockKind, hold_lock, try_lock
from hacktree.common.repository.objectnames import published_name
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import sync_staging
from hacktree.server.push.journal import StagedObject, append_to_journal, read_journal

PREFIX: Final = "push-"
BUSY_SECONDS: Final = 20.0
"""How long a request waits for another one on the same push."""

_RECORD: Final = "session"
_JOURNAL: Final = "journal"
_HOUR: Final = 3600.0


class PushMissingError(HacktreeError):
    """There is no such push, or it is another token's."""


class SessionRecord(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="push"
):
    """Whose push it is, of which commit to which branch; `state` 1: it is published."""

    version: Literal[1]
    token: Annotated[str, Meta(max_length=200)]
    branch: Annotated[str, Meta(max_length=200)]
    commit: WireObjectId
    expected: OptionalId
    state: Literal[0, 1]

    @property
    def branch_name(self) -> BranchName:
        """The branch; it was checked when the push was opened."""
        return BranchName(self.branch)

    @property
    def expected_head(self) -> ObjectId | None:
        """The head that the commit follows."""
        return ObjectId(self.expected) if self.expected else None


_CODEC: Final = Codec(SessionRecord, "push session", 4096)


class Session(msgspec.Struct):
    """A push whose lock is held; made by `hold_session`."""

    repository: Repository
    directory: Path
    record: SessionRecord
    staged: dict[ObjectKey, StagedObject]
    records: int
    """Records in the journal: also of objects that a killed server has published since."""

    @property
    def stored(self) -> int:
        """Bytes that the staged objects take."""
        return sum(staged.stored for staged in self.staged.values())

    def path(self, key: ObjectKey) -> str:
        """Where the object is staged."""
        return f"{self.directory}/{_flat_name(key)}"

    def lacks(self, key: ObjectKey) -> bool:
        """Whether the object is neither staged nor published."""
        return key not in self.staged and not self.repository.has(published_name(key))

    def settle(self, objects: list[StagedObject]) -> None:
        """Make verified objects durable, then say so in the journal."""
        if not objects:
            return
        sync_staging(self.directory)
        append_to_journal(self.directory / _JOURNAL, self.records, objects)
        self.records += len(objects)
        self.staged.update((staged.key, staged) for staged in objects)

    def mark_published(self) -> None:
        """Keep only the record, so that finishing again is answered alike; free the rest."""
        self.record = msgspec.structs.replace(self.record, state=1)
        write_durably(self.directory / _RECORD, _CODEC.encode(self.record))
        for name in os.listdir(self.directory):
            if name != _RECORD:
                os.unlink(self.directory / name)
        self.staged.clear()
        self.records = 0


def push_id(token: str, branch: BranchName, commit: ObjectId) -> str:
    """The push of this commit by this token: opening it twice finds it again."""
    what = b"\0".join((b"hacktree push", token.encode(), branch.encode(), commit))
    return hashlib.sha256(what).hexdigest()[:32]


def create_session(repository: Repository, record: SessionRecord) -> str:
    """Make the session's directory, unless it is there; returns the push's id."""
    name = push_id(record.token, record.branch_name, record.commit)
    directory = repository.staging / (PREFIX + name)
    while True:
        directory.mkdir(mode=0o700, exist_ok=True)
        with hold_lock(directory, LockKind.EXCLUSIVE, timeout=BUSY_SECONDS):
            if not directory.exists():
                continue  # It expired between mkdir and flock.
            known = _read_record(directory)
            # One that was published and is opened again was taken back: the branch was rewound.
            if known is None or known.state == 1:
                write_durably(directory / _RECORD, _CODEC.encode(record))
                sync_directory(repository.staging)
            return name


@contextmanager
def hold_session(repository: Repository, push: str, token: str) -> Iterator[Session]:
    """Hold the push `push` of `token`, which counts as using it.

    Raises `PushMissingError`, and `BusyError` when another request goes on for too long.
    """
    directory = repository.staging / (PREFIX + push)
    missing = PushMissingError(
        f"there is no push {push}", hint="It was published or it expired: open it again."
    )
    try:
        with hold_lock(directory, LockKind.EXCLUSIVE, timeout=BUSY_SECONDS):
            record = _read_record(directory)
            if record is None or record.token != token:
                raise missing
            os.utime(directory / _RECORD)
            yield _load(repository, directory, record)
    except FileNotFoundError as error:
        if os.fspath(error.filename or "") != os.fspath(directory):
            raise
        raise missing from None


def _read_record(directory: Path) -> SessionRecord | None:
    path = directory / _RECORD
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _CODEC.decode(data)
    except FormatError as error:
        raise CorruptError(f"{path}: {error.message}", hint="Delete its directory.") from error


def _flat_name(key: ObjectKey) -> str:
    """The name that `publish_names` expects in a staging directory."""
    return published_name(key).replace("/", "", 1)


def _load(repository: Repository, directory: Path, record: SessionRecord) -> Session:
    journal = read_journal(directory / _JOURNAL)
    session = Session(repository, directory, record, {}, len(journal))
    # A server that was killed while it published has moved some to objects/.
    present = set(os.listdir(directory))
    for name in present:
        if name.startswith("."):  # What it was receiving when it was killed.
            os.unlink(directory / name)
    session.staged.update(
        (staged.key, staged) for staged in journal if _flat_name(staged.key) in present
    )
    return session


class Usage(msgspec.Struct, frozen=True):
    """What a token's unpublished pushes take, but for one."""

    pushes: int
    objects: int
    bytes: int


def usage_of(repository: Repository, token: str, *, besides: str) -> Usage:
    """Count the token's other pushes that are not published."""
    pushes = objects = used = 0
    for directory in _directories(repository):
        if directory.name == PREFIX + besides:
            continue
        record = _read_record(directory)
        if record is None or record.token != token or record.state == 1:
            continue
        staged = read_journal(directory / _JOURNAL)
        pushes += 1
        objects += len(staged)
        used += sum(entry.stored for entry in staged)
    return Usage(pushes, objects, used)


def expire_pushes(repository: Repository, now: float) -> int:
    """Delete pushes that nobody has used for `keep-hours`; returns how many."""
    keep = repository.config.push.keep_hours * _HOUR
    removed = 0
    for directory in _directories(repository):
        # Another server over the same repository may do the same.
        with suppress(FileNotFoundError):
            removed += _remove_if_unused(directory, now - keep)
    return removed


def _remove_if_unused(directory: Path, before: float) -> bool:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        unused = _last_used(directory) < before and try_lock(descriptor, LockKind.EXCLUSIVE)
        if unused:
            shutil.rmtree(directory)
        return unused
    finally:
        os.close(descriptor)


def _last_used(directory: Path) -> float:
    try:
        return (directory / _RECORD).stat().st_mtime
    except FileNotFoundError:
        return directory.stat().st_mtime  # Killed between the two, or about to be written.


def _directories(repository: Repository) -> Iterator[Path]:
    for entry in list(os.scandir(repository.staging)):
        if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)
