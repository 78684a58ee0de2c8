"""A pull's staging directory: verified objects waiting to be published, and partial downloads.

It outlives its process: the next pull takes over a directory whose lock is free, continues the
partial files (`<name>.part`) and rehashes what is complete. docs/architecture.md, "Life of a pull".
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from hacktree.client.source import ContentForm
from hacktree.common.errors import BusyError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.zstandard import (
    compress,
    decompress_bounded,
    decompress_chunks,
    new_compressor,
)
from hacktree.common.repository.content import FILE_MTIME, apply_variant_attributes, copy_variant
from hacktree.common.repository.directory import read_xattrs
from hacktree.common.repository.durable import write_all
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.locks import LockKind, try_lock
from hacktree.common.repository.objectnames import content_name, meta_name, user_mode
from hacktree.common.repository.repository import Repository, content_chunks
from hacktree.common.repository.transaction import meta_mode, write_file

PREFIX: Final = "pull-"
PART_SUFFIX: Final = ".part"
_MAX_PULLS: Final = 64
_CHUNK: Final = 1 << 20

Piece = bytes | memoryview


class Staging:
    """Verified objects of one pull; made by `take_staging`. Safe for use from several threads.

    Every method that takes bytes from outside verifies them and raises `FormatError`.
    """

    def __init__(self, repository: Repository, directory: Path) -> None:
        self.repository = repository
        self.directory = directory
        self.verified: set[str] = set()
        self._leftovers = set(os.listdir(directory))

    def staged_contents(self) -> set[str]:
        """The ids, in hex, of contents that are here, or were left here whole or in part."""
        return {name[:64] for name in {*self._leftovers, *map(_flat, self.verified)}}

    def delete(self) -> None:
        """Everything needed is published: delete the directory and what else is in it."""
        shutil.rmtree(self.directory)

    def path(self, name: str) -> str:
        """Where the object `name` is staged: the layout that `publish_names` expects."""
        return f"{self.directory}/{_flat(name)}"

    def part(self, name: str) -> Path:
        """Where the object's download grows."""
        return Path(self.path(name) + PART_SUFFIX)

    def store_meta(self, object_id: ObjectId, data: bytes) -> None:
        """Stage a tree or commit."""
        if hash_bytes(data) != object_id:
            raise FormatError("its sha256 differs from its name")
        name = meta_name(object_id)
        write_file(self.path(name), data, meta_mode(self.repository.mode))
        self.verified.add(name)

    def recover_meta(self, object_id: ObjectId) -> bytes | None:
        """The bytes of a tree or commit that an earlier pull staged, if they are sound."""
        name = meta_name(object_id)
        if not self.is_leftover(name):
            return None
        data = Path(self.path(name)).read_bytes()
        if hash_bytes(data) == object_id:
            self.verified.add(name)
            return data
        self.discard(name)
        return None

    def recover_content(self, entry: FileEntry) -> bool:
        """Whether an earlier pull staged this content, sound; damaged leftovers are deleted."""
        name = content_name(self.repository.mode, entry)
        if name in self.verified:
            return True
        if not self.is_leftover(name):
            return False
        try:
            self.check_content(entry)
        except FormatError:
            self.discard(name)
            return False
        return True

    def check_content(self, entry: FileEntry) -> None:
        """Rehash a staged content and compare its attributes with its name."""
        mode = self.repository.mode
        name = content_name(mode, entry)
        with open(self.path(name), "rb", buffering=0) as stream:
            _check_attributes(stream.fileno(), mode, entry)
            for _ in _checked(content_chunks(cast("IO[bytes]", stream), mode), entry):
                continue
        self.verified.add(name)

    def is_leftover(self, name: str) -> bool:
        """Whether an earlier pull, or an earlier round of this one, left the object here."""
        return name in self.verified or _flat(name) in self._leftovers

    def discard(self, name: str) -> None:
        """Delete a staged object that turned out to be damaged."""
        # Never rewritten in place: the inode may be linked from another repository.
        os.unlink(self.path(name))
        self._leftovers.discard(_flat(name))

    def store_small(self, entry: FileEntry, data: Piece, form: ContentForm) -> None:
        """Stage a content from memory."""
        is_zstd = form is ContentForm.ZSTD
        content = decompress_bounded(bytes(data), entry.size) if is_zstd else data
        if len(content) != entry.size or hash_bytes(content) != entry.id:
            raise FormatError("its content's size or sha256 differs from its name")
        repository = self.repository
        name = content_name(repository.mode, entry)
        path = self.path(name)
        if repository.mode is Mode.ARCHIVE:
            zstd = data if is_zstd else compress(bytes(data), repository.config.zstd_level)
            write_file(path, bytes(zstd), 0o644)
        else:
            output = _create(path, entry)
            try:
                write_all(output, content)
                apply_variant_attributes(output, repository.mode, entry)
            finally:
                os.close(output)
        self.verified.add(name)

    def store_chunks(self, entry: FileEntry, chunks: Iterator[Piece]) -> None:
        """Stage a content that comes in pieces, each of which may be overwritten by the next."""
        name = content_name(self.repository.mode, entry)
        self._write_large(name, entry, _checked(chunks, entry))
        self.verified.add(name)

    def store_empty(self, entry: FileEntry) -> None:
        """Stage the empty file, which nobody needs to send."""
        if not self.recover_content(entry):
            self.store_small(entry, b"", ContentForm.RAW)

    def store_large(self, entry: FileEntry, form: ContentForm) -> None:
        """Stage a content from its complete part file, which is deleted even if it is bad."""
        repository = self.repository
        name = content_name(repository.mode, entry)
        part = self.part(name)
        try:
            with part.open("rb", buffering=0) as stream:
                raw = cast("IO[bytes]", stream)
                chunks = decompress_chunks(raw) if form is ContentForm.ZSTD else _read_chunks(raw)
                if repository.mode is Mode.ARCHIVE and form is ContentForm.ZSTD:
                    for _ in _checked(chunks, entry):
                        continue
                    part.chmod(0o644)
                    part.rename(self.path(name))
                else:
                    self._write_large(name, entry, _checked(chunks, entry))
        finally:
            part.unlink(missing_ok=True)
        self.verified.add(name)

    def _write_large(self, name: str, entry: FileEntry, chunks: Iterator[Piece]) -> None:
        repository = self.repository
        path = self.path(name)
        compressor = None
        if repository.mode is Mode.ARCHIVE:
            compressor = new_compressor(repository.config.zstd_level)
        output = _create(path, entry)
        try:
            for chunk in chunks:
                write_all(output, chunk if compressor is None else compressor.compress(chunk))
            if compressor is not None:
                write_all(output, compressor.flush())
                os.fchmod(output, 0o644)
            else:
                apply_variant_attributes(output, repository.mode, entry)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(output)

    def store_copy(self, source: str, entry: FileEntry) -> None:
        """Stage another variant of a content that is already here, and check what was copied."""
        name = content_name(self.repository.mode, entry)
        copy_variant(self.repository, source, self.path(name), entry)
        try:
            self.check_content(entry)
        except FormatError as error:
            self.discard(name)
            raise FormatError(f"{source}: {error.message}") from error


def _create(path: str, entry: FileEntry) -> int:
    # Nobody else can enter the staging directory. What a kill leaves can be read, to be judged.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    return os.open(path, flags, (entry.mode | 0o600) & 0o777)


def _flat(name: str) -> str:
    return name[:2] + name[3:]


def _checked(chunks: Iterator[Piece], entry: FileEntry) -> Iterator[Piece]:
    return checked_chunks(chunks, entry.id, entry.size)


def checked_chunks(chunks: Iterator[Piece], name: ObjectId, size: int) -> Iterator[Piece]:
    """Pass chunks through; raises `FormatError` at the end unless they are `size` bytes of `name`.

    More than `size` bytes are never passed.
    """
    digest = hashlib.sha256()
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise FormatError(f"its content exceeds {size} bytes")
        digest.update(chunk)
        yield chunk
    if seen != size or digest.digest() != name:
        raise FormatError("its content's size or sha256 differs from its name")


def _read_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _check_attributes(descriptor: int, mode: Mode, entry: FileEntry) -> None:
    status = os.fstat(descriptor)
    bits = stat.S_IMODE(status.st_mode)
    if mode is Mode.BARE_USER:
        right = bits == user_mode(entry.mode)
    elif mode is Mode.BARE:
        right = (status.st_uid, status.st_gid, bits) == (entry.uid, entry.gid, entry.mode)
        right = right and read_xattrs(descriptor) == entry.xattrs
    else:
        right = bits == 0o644
    if mode is not Mode.ARCHIVE:
        right = right and int(status.st_mtime) == FILE_MTIME
    if not right:
        raise FormatError("its attributes differ from its name")


@contextmanager
def take_staging(repository: Repository) -> Iterator[Staging]:
    """Take over the staging directory of a dead pull, or make one; it stays unless deleted.

    The lock on the directory says that its owner is alive.
    """
    for number in range(_MAX_PULLS):
        directory = repository.staging / f"{PREFIX}{number}"
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A cleaner or a finishing pull may have deleted it before we had the lock.
            if try_lock(descriptor, LockKind.EXCLUSIVE) and _is_same(descriptor, directory):
                yield Staging(repository, directory)
                return
        finally:
            os.close(descriptor)
    raise BusyError(f"{_MAX_PULLS} pulls into {repository.path} are running", hint="Wait for one.")


def _is_same(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except FileNotFoundError:
        return False
