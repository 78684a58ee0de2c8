"""From the bytes of a batch to verified objects in a push's staging directory.

Memory is bounded by one meta and a zstd window, whatever a batch holds. An object gets its staged
name when all of it has been verified, by rename: the name may be a hard link to what an earlier,
killed attempt has published, which must not be written to.
"""

import hashlib
import os
import secrets
from typing import Final, Protocol

import msgspec

from hacktree.common.errors import HacktreeError
from hacktree.common.objects.commit import decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.tree import decode_tree
from hacktree.common.objects.zstandard import MAX_WINDOW_LOG, zstd
from hacktree.common.push.framing import (
    BatchDecoder,
    ObjectBegin,
    ObjectKey,
    ObjectKind,
    ObjectPart,
)
from hacktree.common.repository.config import require_space
from hacktree.common.repository.durable import write_all
from hacktree.common.repository.reachability import TREE_MAGIC
from hacktree.server.push.journal import StagedObject
from hacktree.server.push.sessions import Session

_PIECE: Final = 1 << 20
_SPACE_CHECK_BYTES: Final = 64 << 20
_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}


class WrongObjectError(HacktreeError):
    """Bytes that are not the object that their header names, or not one of this commit."""


class QuotaExceededError(HacktreeError):
    """The token, or the server, allows no more."""


class Allowance(msgspec.Struct):
    """What a push may still bring: objects, bytes on disk, and bytes of content.

    The first two are what the quota leaves, the last what the commit's totals leave: a stream that
    decompresses to more can't be part of the commit.
    """

    objects: int
    stored: int
    content: int


class _Verifier(Protocol):
    def add(self, piece: memoryview) -> None:
        """The next bytes of the object; raises `FormatError`."""

    def finish(self, key: ObjectKey) -> int:
        """The bytes of what the object holds; raises `FormatError` if it isn't `key`."""


class _MetaVerifier:
    """A tree or commit, in memory: at most 64 MiB."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, piece: memoryview) -> None:
        self._data += piece

    def finish(self, key: ObjectKey) -> int:
        data = bytes(self._data)
        if hash_bytes(data) != key.id:
            raise FormatError("its sha256 differs from its id")
        if data.startswith(TREE_MAGIC):
            decode_tree(data)
        else:
            decode_commit(data)
        return len(data)


class _ContentVerifier:
    """One zstd frame, decompressed and hashed piece by piece."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._decompressor = zstd.ZstdDecompressor(options=_OPTIONS)
        self._digest = hashlib.sha256()
        self._size = 0

    def add(self, piece: memoryview) -> None:
        data = bytes(piece)
        decompressor = self._decompressor
        try:
            while True:
                if decompressor.eof:
                    break
                content = decompressor.decompress(data, _PIECE)
                data = b""
                self._take(content)
                if decompressor.needs_input:
                    return
        except zstd.ZstdError as error:
            raise FormatError(f"not a zstd frame: {error}") from error
        if data or decompressor.unused_data:
            raise FormatError("a zstd frame is followed by other bytes")

    def _take(self, content: bytes) -> None:
        self._size += len(content)
        if self._size > self._allowance.content:
            raise FormatError("it decompresses to more than the commit's totals leave")
        self._digest.update(content)

    def finish(self, key: ObjectKey) -> int:
        if not self._decompressor.eof:
            raise FormatError("a zstd frame is truncated")
        if self._digest.digest() != key.id:
            raise FormatError("its content's sha256 differs from its id")
        self._allowance.content -= self._size
        return self._size


class _Incoming:
    """The object that is being received, in a file without a name that anybody looks for."""

    def __init__(self, session: Session, begin: ObjectBegin, allowance: Allowance) -> None:
        self._session = session
        self._begin = begin
        is_meta = begin.key.kind is ObjectKind.META
        self._verifier: _Verifier = _MetaVerifier() if is_meta else _ContentVerifier(allowance)
        self._path = f"{session.directory}/.{secrets.token_hex(8)}"
        self._named = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)

    def add(self, piece: memoryview) -> None:
        self._verifier.add(piece)
        write_all(self._descriptor, piece)

    def finish(self) -> StagedObject:
        """Verify what is left to, and give the object its staged name."""
        key = self._begin.key
        size = self._verifier.finish(key)
        os.fchmod(self._descriptor, 0o644)
        os.rename(self._path, self._session.path(key))
        self._named = True
        return StagedObject(key, self._begin.length, size)

    def close(self) -> None:
        os.close(self._descriptor)
        if not self._named:
            os.unlink(self._path)


class BatchReceiver:
    """Takes a batch as it arrives. Blocks: on disk and CPU, so it belongs into a thread."""

    def __init__(self, session: Session, allowance: Allowance) -> None:
        self._session = session
        self._allowance = allowance
        self._decoder = BatchDecoder()
        self._incoming: _Incoming | None = None
        self._key: ObjectKey | None = None
        self._verified: dict[ObjectKey, StagedObject] = {}
        self._unchecked_bytes = _SPACE_CHECK_BYTES

    def feed(self, data: bytes) -> None:
        """The next bytes.

        Raises `FormatError` for what is no batch, `WrongObjectError`, `QuotaExceededError` and
        `SpaceError`.
        """
        for event in self._decoder.feed(data):
            try:
                if isinstance(event, ObjectBegin):
                    self._key = event.key
                    self._start(event)
                elif self._incoming is None:
                    continue  # It is here already: its bytes are read and forgotten.
                elif isinstance(event, ObjectPart):
                    self._incoming.add(event.data)
                else:
                    self._complete(self._incoming)
            except FormatError as error:
                raise WrongObjectError(f"{_describe(self._key)}: {error.message}") from error

    def _start(self, begin: ObjectBegin) -> None:
        if begin.key in self._verified or not self._session.lacks(begin.key):
            return
        allowance = self._allowance
        if allowance.objects < 1 or allowance.stored < begin.length:
            what = "objects" if allowance.objects < 1 else "bytes"
            raise QuotaExceededError(
                f"no more {what} may be pushed before others are published",
                hint="Finish other pushes, let them expire, or ask the server's owner for a "
                "larger quota ([push] in its config.toml).",
            )
        allowance.objects -= 1
        allowance.stored -= begin.length
        self._unchecked_bytes += begin.length
        if self._unchecked_bytes >= _SPACE_CHECK_BYTES:
            repository = self._session.repository
            require_space(self._session.directory, begin.length, repository.reserve)
            self._unchecked_bytes = 0
        self._incoming = _Incoming(self._session, begin, allowance)

    def _complete(self, incoming: _Incoming) -> None:
        staged = incoming.finish()
        self._discard()
        self._verified[staged.key] = staged

    def finish(self) -> None:
        """The body has ended; raises `FormatError` unless the batch has too."""
        self._decoder.close()

    def settle(self) -> None:
        """Make every object that arrived whole durable; forget the one that didn't."""
        self._discard()
        self._session.settle(list(self._verified.values()))
        self._verified.clear()

    def _discard(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None


def _describe(key: ObjectKey | None) -> str:
    return "an object" if key is None else f"{key.kind.name.lower()} {key.id.hex()}"
