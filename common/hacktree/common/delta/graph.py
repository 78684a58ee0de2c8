"""The pack graph: which trees are joined by packs, and at what cost. docs/format.md, "Graph".

One graph serves all branches. Its newest edges are in a mutable tail, older ones in sealed
segments, each named by its hash and naming the next older one, so that a client that knows a
segment never fetches it again. An edge is a hint: a pack proves itself, or is of no use.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.delta.pack import MAX_ENTRIES, MAX_HEAD_SIZE, MAX_PACK_LENGTH
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ID_LENGTH, ObjectId, WireObjectId, hash_bytes
from hacktree.common.objects.zstandard import compress, decompress_bounded

SEGMENT_LENGTH: Final = 256
"""Edges in a sealed segment; the mutable tail holds up to twice as many."""

MAX_SEGMENT_SIZE: Final = 256 << 10
"""Bytes of one decompressed segment."""

_MAX_DECODED: Final = 1 << 50
_MAX_COST: Final = 1 << 40
_LEVEL: Final = 19


class Edge(msgspec.Struct, frozen=True):
    """A pack from `old` (None: from scratch) to `new`.

    `head_length` and `length`: bytes of its head and of the whole file. `entries` and `decoded`:
    objects that it encodes, and their bytes. `cost`: milliseconds to decode all of them on one
    core. Raises `FormatError` for what no segment can hold.
    """

    old: ObjectId | None
    new: ObjectId
    pack: ObjectId
    head_length: int
    length: int
    entries: int
    decoded: int
    cost: int

    def __post_init__(self) -> None:
        ids = (self.new, self.pack) if self.old is None else (self.old, self.new, self.pack)
        if any(len(name) != ID_LENGTH for name in ids):
            raise FormatError("an edge with a malformed id")
        if self.old == self.new:
            raise FormatError("an edge from a tree to itself")
        if not 1 <= self.head_length <= min(self.length, MAX_HEAD_SIZE):
            raise FormatError("an edge whose pack has an impossible head")
        bounds = (
            (self.length, MAX_PACK_LENGTH + MAX_HEAD_SIZE),
            (self.entries, MAX_ENTRIES),
            (self.decoded, _MAX_DECODED),
            (self.cost, _MAX_COST),
        )
        if any(not 0 <= number <= limit for number, limit in bounds):
            raise FormatError("an edge with a number out of bounds")


class Segment(msgspec.Struct, frozen=True):
    """Edges, newest first, and the name of the next older sealed segment."""

    edges: tuple[Edge, ...]
    older: ObjectId | None

    def __post_init__(self) -> None:
        if len(self.edges) > 2 * SEGMENT_LENGTH:
            raise FormatError(f"more than {2 * SEGMENT_LENGTH} edges in a segment of the graph")
        if len({edge.pack for edge in self.edges}) != len(self.edges):
            raise FormatError("a segment of the graph names a pack twice")


EMPTY_SEGMENT: Final = Segment((), None)

_Number = Annotated[int, Meta(ge=0, le=_MAX_DECODED)]


class _EdgeRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An `Edge` with trees by index: `old` 0 for none, else the index + 1."""

    old: Annotated[int, Meta(ge=0, le=4 * SEGMENT_LENGTH)]
    new: Annotated[int, Meta(ge=0, lt=4 * SEGMENT_LENGTH)]
    pack: WireObjectId
    head_length: _Number
    length: _Number
    entries: _Number
    decoded: _Number
    cost: _Number


class _SegmentRow(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="graph"
):
    """A `Segment` as it is encoded; `trees` are distinct and in the order of their first use."""

    format: Literal[1]
    trees: Annotated[tuple[WireObjectId, ...], Meta(max_length=4 * SEGMENT_LENGTH)]
    edges: Annotated[tuple[_EdgeRow, ...], Meta(max_length=2 * SEGMENT_LENGTH)]
    older: Annotated[bytes, Meta(max_length=ID_LENGTH)]


_CODEC = Codec(_SegmentRow, "graph segment", MAX_SEGMENT_SIZE)


def encode_segment(segment: Segment) -> bytes:
    """The bytes of the file: a zstd frame of the canonical encoding."""
    numbers = _number_trees(segment.edges)
    rows = tuple(
        _EdgeRow(
            0 if edge.old is None else numbers[edge.old] + 1,
            numbers[edge.new],
            edge.pack,
            edge.head_length,
            edge.length,
            edge.entries,
            edge.decoded,
            edge.cost,
        )
        for edge in segment.edges
    )
    return compress(
        _CODEC.encode(_SegmentRow(1, tuple(numbers), rows, segment.older or b"")), _LEVEL
    )


def decode_segment(data: bytes) -> Segment:
    """The segment in a file's bytes; raises `FormatError`. Memory: 256 KiB decompressed."""
    if len(data) > MAX_SEGMENT_SIZE:
        raise FormatError(f"a graph segment of {len(data)} bytes exceeds {MAX_SEGMENT_SIZE}")
    row = _CODEC.decode(decompress_bounded(data, MAX_SEGMENT_SIZE))
    if len(row.older) not in (0, ID_LENGTH):
        raise FormatError("the name of an older graph segment is malformed")
    edges = tuple(_edge(edge, row.trees) for edge in row.edges)
    # One encoding per segment: the table of trees follows from the edges.
    if tuple(_number_trees(edges)) != row.trees:
        raise FormatError("the trees of a graph segment are not those of its edges in their order")
    return Segment(edges, ObjectId(row.older) if row.older else None)


def decode_sealed_segment(data: bytes, name: ObjectId) -> Segment:
    """As `decode_segment`, for the sealed segment of this name, which is checked first."""
    if hash_bytes(data) != name:
        raise FormatError(f"graph segment {name.hex()} is not what its name says")
    return decode_segment(data)


def _edge(row: _EdgeRow, trees: Sequence[ObjectId]) -> Edge:
    if row.old > len(trees) or row.new >= len(trees):
        raise FormatError("an edge names a tree that its graph segment doesn't list")
    return Edge(
        old=trees[row.old - 1] if row.old else None,
        new=trees[row.new],
        pack=row.pack,
        head_length=row.head_length,
        length=row.length,
        entries=row.entries,
        decoded=row.decoded,
        cost=row.cost,
    )


def _number_trees(edges: Iterable[Edge]) -> dict[ObjectId, int]:
    """The trees of `edges` in the order of their first use, with their numbers."""
    numbers: dict[ObjectId, int] = {}
    for edge in edges:
        if edge.old is not None:
            numbers.setdefault(edge.old, len(numbers))
        numbers.setdefault(edge.new, len(numbers))
    return numbers


class GraphUpdate(msgspec.Struct, frozen=True):
    """Files to write: sealed segments by name, in this order, and then the tail."""

    sealed: tuple[tuple[ObjectId, bytes], ...]
    tail: bytes


def add_edges(tail: Segment, added: Sequence[Edge]) -> GraphUpdate:
    """The files after `added` edges (newest first) came before those of `tail`.

    The oldest 256 edges are sealed whenever there are more than 512. From `EMPTY_SEGMENT` and all
    edges it makes a graph anew: the same one that adding them one by one would have made.
    """
    edges = (*added, *tail.edges)
    older = tail.older
    sealed = []
    while len(edges) > 2 * SEGMENT_LENGTH:
        data = encode_segment(Segment(edges[-SEGMENT_LENGTH:], older))
        older = hash_bytes(data)
        sealed.append((older, data))
        edges = edges[:-SEGMENT_LENGTH]
    return GraphUpdate(tuple(sealed), encode_segment(Segment(edges, older)))
