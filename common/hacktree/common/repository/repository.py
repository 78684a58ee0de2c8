"""An open repository: reading objects, checked against their names."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from hacktree.common.errors import CorruptError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import MAX_TREE_SIZE, FileEntry, Tree, decode_tree
from hacktree.common.objects.zstandard import decompress_chunks
from hacktree.common.repository.config import RepositoryConfig, parse_size, read_config
from hacktree.common.repository.layout import Mode, read_format
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.objectnames import content_name, meta_name

CHUNK: Final = 1 << 20
LOCK_TIMEOUT: Final = 60.0
"""Seconds that a command waits for a prune or fsck that holds the repository lock."""


class ObjectMissingError(CorruptError):
    """An object that should be here is not."""

    def __init__(self, what: str, object_id: ObjectId) -> None:
        super().__init__(
            f"{what} {object_id.hex()} is missing",
            hint="Run `hacktree fsck` to see what needs it; pulling again fetches it.",
        )
        self.object_id = object_id


class ObjectCorruptError(CorruptError):
    """An object's bytes do not match its name."""

    def __init__(self, path: Path | str, why: str) -> None:
        super().__init__(
            f"{path} is damaged: {why}",
            hint="`hacktree fsck --repair` removes damaged objects; pulling again fetches them.",
        )


class Repository(msgspec.Struct, frozen=True):
    """Where a repository is and how it stores content; made by `open_repository`."""

    path: Path
    mode: Mode
    config: RepositoryConfig

    @property
    def objects(self) -> Path:
        """The directory of objects."""
        return self.path / "objects"

    @property
    def state(self) -> Path:
        """Private state: caches, journals, pins."""
        return self.path / "state"

    @property
    def staging(self) -> Path:
        """Where everything is written before it is published."""
        return self.path / "tmp"

    @property
    def reserve(self) -> int:
        """Bytes that a write must leave free on the file system."""
        return parse_size(self.config.min_free_space)

    def lock(
        self, kind: LockKind, *, timeout: float = LOCK_TIMEOUT
    ) -> AbstractContextManager[None]:
        """The repository lock: SHARED for whoever adds, EXCLUSIVE for whoever deletes."""
        return hold_lock(self.path / "lock", kind, timeout=timeout)

    def has(self, name: str) -> bool:
        """Whether the object file `name` (relative to objects/) exists."""
        return os.path.exists(f"{self.path}/objects/{name}")

    def has_meta(self, object_id: ObjectId) -> bool:
        """Whether the tree or commit is here."""
        return self.has(meta_name(object_id))

    def read_meta(self, object_id: ObjectId, max_size: int) -> bytes:
        """The bytes of a tree or commit, at most `max_size`, verified against the id."""
        # A pull reads thousands: joining strings is quicker than joining paths.
        path = f"{self.path}/objects/{meta_name(object_id)}"
        try:
            with open(path, "rb", buffering=0) as stream:
                if os.fstat(stream.fileno()).st_size > max_size:
                    raise ObjectCorruptError(path, f"larger than {max_size} bytes")
                data = stream.read()
        except FileNotFoundError:
            raise ObjectMissingError("the meta object", object_id) from None
        if hash_bytes(data) != object_id:
            raise ObjectCorruptError(path, "its sha256 differs from its name")
        return data

    def load_tree(self, object_id: ObjectId) -> Tree:
        """The tree with this id."""
        data = self.read_meta(object_id, MAX_TREE_SIZE)
        try:
            return decode_tree(data)
        except FormatError as error:
            raise ObjectCorruptError(self.objects / meta_name(object_id), str(error)) from error

    def load_commit(self, object_id: ObjectId) -> Commit:
        """The commit with this id."""
        data = self.read_meta(object_id, MAX_COMMIT_SIZE)
        try:
            return decode_commit(data)
        except FormatError as error:
            raise ObjectCorruptError(self.objects / meta_name(object_id), str(error)) from error

    def content_path(self, entry: FileEntry) -> Path:
        """The file that holds, or would hold, the content of `entry`."""
        return self.objects / content_name(self.mode, entry)

    def read_content(self, entry: FileEntry) -> Iterator[bytes]:
        """Yield the content of a file in chunks; the last is followed by the check of its hash."""
        path = self.content_path(entry)
        try:
            stream = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            raise ObjectMissingError("the content", entry.id) from None
        with stream:
            yield from verified_chunks(
                content_chunks(cast("IO[bytes]", stream), self.mode),
                path,
                entry.id,
                entry.size,
            )


def open_repository(path: Path) -> Repository:
    """Open the repository in the directory `path`."""
    return Repository(path, read_format(path).mode, read_config(path))


def content_chunks(stream: IO[bytes], mode: Mode) -> Iterator[bytes]:
    """The content that an object file holds, in bounded chunks, not verified."""
    if mode is Mode.ARCHIVE:
        yield from decompress_chunks(stream)
        return
    while chunk := stream.read(CHUNK):
        yield chunk


def verified_chunks(
    chunks: Iterator[bytes], path: Path, object_id: ObjectId, size: int
) -> Iterator[bytes]:
    """Pass chunks through; raise `ObjectCorruptError` unless they end at `size` and hash to it."""
    digest = hashlib.sha256()
    seen = 0
    try:
        for chunk in chunks:
            seen += len(chunk)
            if seen > size:
                raise ObjectCorruptError(path, f"its content exceeds {size} bytes")
            digest.update(chunk)
            yield chunk
    except FormatError as error:
        raise ObjectCorruptError(path, str(error)) from error
    if seen != size:
        raise ObjectCorruptError(path, f"{seen} bytes instead of {size}")
    if digest.digest() != object_id:
        raise ObjectCorruptError(path, "its content's sha256 differs from its name")
