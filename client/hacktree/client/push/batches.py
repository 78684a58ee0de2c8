"""What a push sends: the objects of a commit, and bodies of batches read from the repository."""

import os
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.push.framing import (
    BATCH_END,
    HEADER_LENGTH,
    ObjectKey,
    ObjectKind,
    encode_header,
)
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import META_SUFFIX, published_name
from hacktree.common.repository.reachability import mark_commit, object_id_of
from hacktree.common.repository.repository import ObjectCorruptError, ObjectMissingError, Repository

BATCH_SIZE: Final = 64 << 20
"""Bytes after which a batch ends; what is acknowledged is not sent again."""

_PIECE: Final = 1 << 20


class NotPushableError(UserError):
    """The repository or the commit is not of the kind that can be pushed."""


class Batch(msgspec.Struct, frozen=True):
    """Objects that go in one request, and the bytes of its body."""

    keys: tuple[ObjectKey, ...]
    length: int


class PushPlan(msgspec.Struct, frozen=True):
    """What a push sends at most: what its parent, which the server has, does not reach."""

    objects: int
    bytes: int
    batches: int


def plan_push(repository: Repository, commit_id: ObjectId, commit: Commit) -> PushPlan:
    """The plan of one build's push, without asking the server what it lacks."""
    keys = objects_to_push(repository, commit_id, commit)
    objects, sent, batches = len(keys), 0, 0
    while keys:
        batch = next_batch(repository, keys)
        keys = keys[len(batch.keys) :]
        sent += batch.length
        batches += 1
    return PushPlan(objects, sent, batches)


def require_archive(repository: Repository) -> None:
    """Refuse what doesn't hold content in the form in which it is published."""
    if repository.mode is not Mode.ARCHIVE:
        raise NotPushableError(
            f"{repository.path} is a repository in {repository.mode.value} mode; only an archive "
            "can be pushed from",
            hint="Commit to an archive (init --mode archive), or push the tree's directory without "
            "--repo.",
        )


def objects_to_push(repository: Repository, commit_id: ObjectId, commit: Commit) -> list[ObjectKey]:
    """What the commit reaches and its parent, which the server has, does not.

    Without the commit itself, which opens the push. All that it reaches if the parent isn't here.
    """
    known: set[str] = set()
    if commit.parents and repository.has_meta(commit.parents[0]):
        parent_id = commit.parents[0]
        parent = repository.load_commit(parent_id)
        mark_commit(repository.load_tree, repository.mode, parent_id, parent, known)
    marked: set[str] = set()
    mark_commit(repository.load_tree, repository.mode, commit_id, commit, marked, known)
    keys = [_key_of(name) for name in marked - known]
    # The same order at every attempt.
    return sorted(key for key in keys if key.id != commit_id)


def _key_of(name: str) -> ObjectKey:
    kind = ObjectKind.META if name.endswith(META_SUFFIX) else ObjectKind.FILE
    return ObjectKey(kind, object_id_of(name))


def next_batch(repository: Repository, keys: Sequence[ObjectKey]) -> Batch:
    """The first of `keys`, up to `BATCH_SIZE`; at least one."""
    length = len(BATCH_END)
    count = 0
    for key in keys:
        size = HEADER_LENGTH + _length_of(repository, key)
        if count and length + size > BATCH_SIZE:
            break
        length += size
        count += 1
    return Batch(tuple(keys[:count]), length)


def _length_of(repository: Repository, key: ObjectKey) -> int:
    try:
        return os.stat(f"{repository.path}/objects/{published_name(key)}").st_size
    except FileNotFoundError:
        raise ObjectMissingError(f"the {key.kind.name.lower()} object", key.id) from None


def read_batch(repository: Repository, batch: Batch) -> Iterator[bytes]:
    """The body of the batch in pieces of about 1 MiB, `batch.length` bytes together."""
    buffered = bytearray()
    for key in batch.keys:
        path = f"{repository.path}/objects/{published_name(key)}"
        with open(path, "rb", buffering=0) as stream:
            remaining = os.fstat(stream.fileno()).st_size
            buffered += encode_header(key, remaining)
            while remaining:
                data = stream.read(min(_PIECE, remaining))
                if not data:
                    raise ObjectCorruptError(path, "it shrank while it was read")
                remaining -= len(data)
                buffered += data
                if len(buffered) >= _PIECE:
                    yield bytes(buffered)
                    buffered.clear()
    yield bytes(buffered) + BATCH_END
