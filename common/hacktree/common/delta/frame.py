"""Frames: the unit of download, verification and dropping; the entries of one, stream by stream.

A frame's first stream holds the size of every entry's part in every other stream, column by column,
so any entry can be decoded without the ones before it. docs/format.md, "Frame" and "Entries".
"""

import mmap
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from hacktree.common.delta.entry import (
    FULL_SPEED,
    PART_KINDS,
    STORED_SPEED,
    EncodedEntry,
    EntryKind,
    StreamKind,
)
from hacktree.common.delta.memberdelta import decode_object
from hacktree.common.delta.plain import Parts
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.streams import MAX_LENGTH, Blob, Method, pack_blob, unpack_blob
from hacktree.common.delta.together import Item, decode_together
from hacktree.common.delta.varint import I64, decode_varints, encode_varints
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError

Buffer = bytes | memoryview | mmap.mmap

MAX_ENTRIES: Final = 4096
MAX_FRAME_SIZE: Final = 1 << 30
_EXPANSION: Final = 4
_ALLOWANCE: Final = 1 << 20


class FrameStream(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One stream: its kind, then what a `Blob` says."""

    kind: Annotated[int, Meta(ge=0, le=len(PART_KINDS))]
    method: Annotated[int, Meta(ge=0, le=4)]
    length: Annotated[int, Meta(ge=0, le=MAX_LENGTH)]
    data: bytes


class Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="frame"):
    """The streams of `count` entries, ascending by kind; an empty stream is absent."""

    version: Literal[1]
    count: Annotated[int, Meta(ge=1, le=MAX_ENTRIES)]
    streams: Annotated[tuple[FrameStream, ...], Meta(max_length=len(StreamKind))]

    def __post_init__(self) -> None:
        kinds = [stream.kind for stream in self.streams]
        if kinds != sorted(set(kinds)):
            raise FormatError("the streams of a frame are not in order")
        if any(stream.length == 0 for stream in self.streams):
            raise FormatError("a frame has an empty stream")


_CODEC = Codec(Frame, "frame", MAX_FRAME_SIZE)


def encode_frame(entries: Sequence[EncodedEntry], dictionary: bytes = b"") -> bytes:
    """The frame of these entries, each stream by the smallest method."""
    streams = []
    for kind in StreamKind:
        data = _records(entries) if kind is StreamKind.RECORDS else _joined(entries, kind)
        if not data:
            continue
        candidates = [Method.ZSTD, Method.LZMA]
        if kind in _CODE_STREAMS:
            candidates.append(Method.LZMA_X86)
        if dictionary:
            candidates.append(Method.ZSTD_DICTIONARY)
        blob = pack_blob(data, context=dictionary, candidates=candidates)
        streams.append(FrameStream(int(kind), blob.method, blob.length, blob.data))
    return _CODEC.encode(Frame(1, len(entries), tuple(streams)))


def frame_cost(entries: Sequence[EncodedEntry], frame: bytes) -> int:
    """Microseconds to decode all entries of the frame that they were put into, on one core."""
    stored = sum(
        stream.length
        for stream in _CODEC.decode(frame).streams
        if stream.kind == StreamKind.CONTENT and stream.method == Method.STORED
    )
    return sum(entry.cost for entry in entries) - stored // FULL_SPEED + stored // STORED_SPEED


_CODE_STREAMS: Final = frozenset({StreamKind.CONTENT, StreamKind.EXTRA})


def entry_size(entry: EncodedEntry) -> int:
    """Bytes of the entry alone in a frame, without a dictionary."""
    return len(encode_frame([entry]))


def stream_sizes(entry: EncodedEntry) -> dict[str, int]:
    """Compressed bytes by stream of the entry alone in a frame."""
    frame = _CODEC.decode(encode_frame([entry]))
    return {StreamKind(s.kind).name.lower(): len(s.data) for s in frame.streams}


def _records(entries: Sequence[EncodedEntry]) -> bytes:
    sizes = [[len(entry.parts.get(kind, b"")) for entry in entries] for kind in PART_KINDS]
    return encode_varints(np.array(sizes, np.uint64).reshape(-1))


def _joined(entries: Sequence[EncodedEntry], kind: StreamKind) -> bytes:
    return b"".join(entry.parts.get(kind, b"") for entry in entries)


class FrameReader:
    """The entries of one frame; everything is decompressed, within bounds, when it is made.

    `data` must have been checked against its hash. `sizes` are the objects' sizes in bytes, from a
    verified tree; memory is at most four times their sum and 1 MiB. Raises `FormatError`.
    """

    def __init__(
        self,
        data: bytes,
        kinds: Sequence[EntryKind],
        sizes: Sequence[int],
        dictionary: bytes,
        shared: Shared,
    ) -> None:
        frame = _CODEC.decode(data)
        if not frame.count == len(kinds) == len(sizes):
            raise FormatError(f"a frame of {frame.count} entries where {len(kinds)} are due")
        if sum(stream.length for stream in frame.streams) > _EXPANSION * sum(sizes) + _ALLOWANCE:
            raise FormatError("the streams of a frame are longer than its objects can need")
        self._kinds = kinds
        self._shared = shared
        self._streams = _unpack(frame, dictionary)
        self._offsets = _read_records(self._streams, frame.count)

    def decode(self, index: int, old: Buffer | None, output: memoryview) -> None:
        """Fill `output` with entry `index`; `old` is its base, None if it has none."""
        base = None if old is None else memoryview(old)
        kind = EntryKind(self._kinds[index])
        decode_object(kind, self._parts(index), base, output, self._shared)

    def decode_plain(
        self, places: Sequence[tuple[int, slice, slice]], olds: memoryview, output: memoryview
    ) -> None:
        """Fill ranges of `output` with plain entries: (index, its base in `olds`, its range).

        Quicker than one by one. `olds` is written over, and if this raises `FormatError`, which
        says nothing about any single entry, `output` holds anything.
        """
        items = [Item(old, new) for _, old, new in places]
        indexes = np.array([index for index, _, _ in places], np.int64)

        def joined(kind: StreamKind) -> tuple[bytes | memoryview, I64]:
            return self._joined(kind, indexes)

        decode_together(items, joined, olds, output, self._shared)

    def _parts(self, index: int) -> Parts:
        bounds = self._offsets[:, index : index + 2].tolist()
        return {
            kind: self._streams[kind][start:end]
            for kind, (start, end) in zip(PART_KINDS, bounds, strict=True)
            if end > start
        }

    def _joined(self, kind: StreamKind, indexes: I64) -> tuple[bytes | memoryview, I64]:
        """The parts of some entries, one after the other, and their lengths."""
        offsets = self._offsets[PART_KINDS.index(kind)]
        starts, ends = offsets[indexes], offsets[indexes + 1]
        # Most stand one behind the other in the stream as well.
        breaks = np.flatnonzero(starts[1:] != ends[:-1])
        stream = self._streams.get(kind, memoryview(b""))
        pieces = [
            stream[start:end]
            for start, end in zip(
                starts[np.append(0, breaks + 1)].tolist(),
                ends[np.append(breaks, -1)].tolist(),
                strict=True,
            )
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), ends - starts


def _unpack(frame: Frame, dictionary: bytes) -> dict[StreamKind, memoryview]:
    unpacked = {}
    for stream in frame.streams:
        context = dictionary if stream.method == Method.ZSTD_DICTIONARY else b""
        blob = Blob(stream.method, stream.length, stream.data)
        unpacked[StreamKind(stream.kind)] = memoryview(
            unpack_blob(blob, stream.length, context=context)
        )
    return unpacked


def _read_records(streams: Mapping[StreamKind, memoryview], count: int) -> I64:
    """For every part kind the offsets at which the entries' parts begin, and the end."""
    records = streams.get(StreamKind.RECORDS, memoryview(b""))
    sizes = decode_varints(records, count * len(PART_KINDS)).reshape(len(PART_KINDS), count)
    if int(sizes.max()) > MAX_LENGTH:
        raise FormatError("a part of an entry is longer than any stream")
    offsets = np.zeros((len(PART_KINDS), count + 1), np.int64)
    np.cumsum(sizes.view(np.int64), axis=1, out=offsets[:, 1:])
    for kind, end in zip(PART_KINDS, offsets[:, -1].tolist(), strict=True):
        if end != len(streams.get(kind, b"")):
            raise FormatError(f"the parts of a frame's entries do not fill its stream {kind.name}")
    return offsets
