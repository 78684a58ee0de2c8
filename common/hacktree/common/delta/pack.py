"""Packs: what leads from one tree to another, in one file. docs/format.md, "Packs".

A pack is a head and then frames. The head is named by its hash, so everything in it, the hash of
each frame above all, is what the name promises; whether it is *true* is known only by comparing the
objects made from it with the ids in verified trees. Nothing here reads or writes files.
"""

from collections.abc import Container, Iterator, Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.streams import Blob, Method, pack_blob, unpack_blob
from hacktree.common.delta.varint import (
    I64,
    decode_varints,
    encode_varints,
    unzigzag,
    zigzag,
)
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ID_LENGTH, ObjectId, WireObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, Entry, Tree, TreeSize, decode_tree
from hacktree.common.objects.walk import MAX_DEPTH

MAX_HEAD_SIZE: Final = 32 << 20
"""Bytes of one encoded head."""
MAX_FRAMES: Final = 100_000
MAX_ENTRIES: Final = 2_000_000
"""Entries of one pack."""
MAX_ALTERNATIVES: Final = 4
"""Entries of a pack for each of its targets, on average."""
MAX_FRAME_ENTRIES: Final = 4096
MAX_FRAME_LENGTH: Final = 1 << 30
"""Bytes of one frame; an object that needs more is not packed."""
MAX_FRAME_DECODED: Final = 1 << 36
"""Bytes that the objects of one frame have together."""
MAX_PACK_LENGTH: Final = 1 << 40
MAX_DICTIONARY: Final = 256 << 10
MAX_SHARED: Final = 4 << 20
MAX_ENTRY_COLUMNS: Final = 32 << 20
MAX_METAS: Final = 64 << 20
"""Bytes of the decoded columns of entries, and of all trees that a pack brings."""
MAX_METAS_CONTEXT: Final = 64 << 20
"""Bytes of old trees beyond which they are no context for the new ones."""

_MAX_COST: Final = 1 << 40
_MAX_TARGETS: Final = 50_000_000
"""Files that a commit may have: no ordinal, and no step between two, is as large."""

FrameLength = Annotated[int, Meta(ge=1, le=MAX_FRAME_LENGTH)]


class FrameInfo(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One frame: bytes, sha256 of them, bytes of its objects, and microseconds to decode them."""

    length: FrameLength
    digest: WireObjectId
    decoded: Annotated[int, Meta(ge=1, le=MAX_FRAME_DECODED)]
    cost: Annotated[int, Meta(ge=0, le=_MAX_COST)]


class PackHead(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="pack"
):
    """What a pack holds. `from_tree` is empty for a pack that starts from nothing.

    `to_size`: bytes of the encoded root tree. `dictionary`: what streams of frames may refer to.
    `shared`: maps of the codec. `entries`, `metas`: see `decode_entries` and `read_metas`.
    """

    format: Literal[1]
    from_tree: Annotated[bytes, Meta(max_length=ID_LENGTH)]
    to_tree: WireObjectId
    to_size: TreeSize
    dictionary: Annotated[bytes, Meta(max_length=MAX_DICTIONARY)]
    shared: Blob
    frames: Annotated[tuple[FrameInfo, ...], Meta(max_length=MAX_FRAMES)]
    entries: Blob
    metas: Blob

    def __post_init__(self) -> None:
        if len(self.from_tree) not in (0, ID_LENGTH):
            raise FormatError("the tree that a pack starts from is malformed")
        if self.from_tree == self.to_tree:
            raise FormatError("a pack from a tree to itself")
        if sum(frame.length for frame in self.frames) > MAX_PACK_LENGTH:
            raise FormatError(f"the frames of a pack exceed {MAX_PACK_LENGTH} bytes")
        _check_blob("shared maps", self.shared, MAX_SHARED, _PLAIN_METHODS)
        _check_blob("entries", self.entries, MAX_ENTRY_COLUMNS, _PLAIN_METHODS)
        _check_blob("trees", self.metas, MAX_METAS, _META_METHODS)

    @property
    def old(self) -> ObjectId | None:
        """The tree that the pack starts from; None: nothing."""
        return ObjectId(self.from_tree) if self.from_tree else None


_PLAIN_METHODS: Final = frozenset({Method.STORED, Method.ZSTD, Method.LZMA})
_META_METHODS: Final = _PLAIN_METHODS | {Method.ZSTD_PREFIX}


def _check_blob(name: str, blob: Blob, limit: int, methods: frozenset[Method]) -> None:
    if not 0 <= blob.length <= limit:
        raise FormatError(f"the {name} of a pack take {blob.length} bytes, more than {limit}")
    if blob.method not in methods:
        raise FormatError(f"the {name} of a pack are compressed by method {blob.method}")


_CODEC = Codec(PackHead, "pack head", MAX_HEAD_SIZE)


def encode_head(head: PackHead) -> bytes:
    """The canonical encoding, whose hash names the pack; raises `FormatError` out of bounds."""
    return _CODEC.encode(head)


def decode_head(data: bytes, name: ObjectId) -> PackHead:
    """The head of the pack called `name`; the hash of `data` is checked before anything else.

    Raises `FormatError`. Memory: a few times the length of `data`, which is at most 32 MiB; what
    is compressed in it stays so.
    """
    if hash_bytes(data) != name:
        raise FormatError(f"the head of pack {name.hex()} is not what its name says")
    return _CODEC.decode(data)


def frame_offsets(head: PackHead, head_length: int) -> I64:
    """Where in the pack's file each frame begins, and where the last ends: the pack's length."""
    lengths = [head_length, *(frame.length for frame in head.frames)]
    return np.cumsum(np.array(lengths, np.int64))


class PackEntries(msgspec.Struct, frozen=True, eq=False):
    """The entries of a pack in the order of its frames, as columns of equal length.

    `counts`: entries of each frame. `targets`: ordinals in `TreeComparison.targets`. `bases`:
    ordinals in `TreeComparison.bases`, -1 for none. `kinds`: values of `EntryKind`. An object may
    be the target of several entries: the reader takes whichever it prefers.
    """

    counts: I64
    targets: I64
    bases: I64
    kinds: I64

    def __post_init__(self) -> None:
        if not len(self.targets) == len(self.bases) == len(self.kinds) <= MAX_ENTRIES:
            raise FormatError("the columns of a pack's entries have different or absurd lengths")
        # Checked one by one first, so that no sum can overflow.
        if np.any(self.counts < 1) or np.any(self.counts > MAX_FRAME_ENTRIES):
            raise FormatError(f"a frame of no entries, or of more than {MAX_FRAME_ENTRIES}")
        if int(self.counts.sum()) != len(self.targets):
            raise FormatError("the frames of a pack don't have as many entries as it lists")
        if np.any(self.kinds < 0) or np.any(self.kinds > max(EntryKind)):
            raise FormatError("an entry of a kind that is not known")
        based = self.bases >= 0
        full = self.kinds == EntryKind.FULL
        delta = (self.kinds == EntryKind.DELTA) | (self.kinds == EntryKind.ELF)
        if np.any(full & based) or np.any(delta & ~based):
            raise FormatError("a whole object with a base, or a delta without one")

    @property
    def starts(self) -> I64:
        """Index of the first entry of each frame, and the number of entries at the end."""
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(self.counts)))


def encode_entries(entries: PackEntries) -> bytes:
    """The columns as bytes, to be compressed into `PackHead.entries`."""
    bases = np.zeros(len(entries.bases), np.uint64)
    based = entries.bases >= 0
    bases[based] = zigzag(_steps(entries.bases[based])) + np.uint64(1)
    columns = (
        entries.counts.astype(np.uint64),
        zigzag(_steps(entries.targets)),
        bases,
        entries.kinds.astype(np.uint64),
    )
    return encode_varints(np.concatenate(columns))


def decode_entries(head: PackHead, targets: int, bases: int) -> PackEntries:
    """The entries of a pack whose trees have that many targets and bases.

    Raises `FormatError` for an ordinal out of range and whatever else is malformed. Memory: 32 MiB,
    and about 200 bytes for each entry, of which there are at most 4 for each target.
    """
    data = unpack_blob(head.entries, MAX_ENTRY_COLUMNS)
    frames = len(head.frames)
    numbers = int(np.count_nonzero(np.frombuffer(data, np.uint8) < 0x80))
    count, rest = divmod(numbers - frames, 3)
    if rest or not 0 <= count <= min(MAX_ENTRIES, MAX_ALTERNATIVES * targets):
        raise FormatError(f"a pack of {frames} frames and {numbers} numbers for its entries")
    values = decode_varints(data, numbers)
    columns = np.split(values, (frames, frames + count, frames + 2 * count))
    target_column = _sum_steps(columns[1])
    base_column = np.full(count, -1, np.int64)
    based = columns[2] > 0
    base_column[based] = _sum_steps(columns[2][based] - np.uint64(1))
    _check_ordinals("target", target_column, targets)
    _check_ordinals("base", base_column[based], bases)
    return PackEntries(
        counts=_small(columns[0]),
        targets=target_column,
        bases=base_column,
        kinds=_small(columns[3]),
    )


def _steps(ordinals: I64) -> I64:
    """Each ordinal less the one before it; the first less -1."""
    return np.diff(ordinals, prepend=np.int64(-1))


def _sum_steps(values: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> I64:
    """The inverse of `_steps` after zigzag; no step is so large that a sum could overflow."""
    if np.any(values > 2 * _MAX_TARGETS):
        raise FormatError("an ordinal of a pack's entries is out of range")
    return np.cumsum(unzigzag(values)) - 1


def _small(values: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> I64:
    """As signed integers; what doesn't fit becomes too large for any use, not negative."""
    return np.minimum(values, np.uint64(_MAX_TARGETS)).astype(np.int64)


def _check_ordinals(name: str, ordinals: I64, limit: int) -> None:
    if np.any(ordinals < 0) or np.any(ordinals >= limit):
        raise FormatError(f"a {name} ordinal of a pack's entries is not below {limit}")


def check_sizes(head: PackHead, entries: PackEntries, sizes: Sequence[int]) -> None:
    """Refuse a head whose frames don't decode to what the trees say.

    `sizes`: bytes of each target, in order of ordinals. Raises `FormatError`.
    """
    of_entries = np.array(sizes, np.int64)[entries.targets]
    sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(of_entries)))[entries.starts]
    told = np.array([frame.decoded for frame in head.frames], np.int64)
    if not np.array_equal(np.diff(sums), told):
        raise FormatError("a frame decodes to more or fewer bytes than the trees name")


class PackedTree(msgspec.Struct, frozen=True):
    """A tree that a pack brought: its verified bytes, and what they decode to."""

    id: ObjectId
    data: bytes
    tree: Tree


def metas_context(encoded: Sequence[bytes]) -> bytes:
    """What the new trees are compressed against.

    `encoded`: the bytes of `TreeComparison.old_trees` (equally `Contents.trees` of the old tree),
    in that order. Nothing beyond 64 MiB.
    """
    return b"".join(encoded) if sum(map(len, encoded)) <= MAX_METAS_CONTEXT else b""


def pack_metas(encoded: Sequence[bytes], context: bytes) -> Blob:
    """The bytes of `TreeComparison.metas`, compressed for `PackHead.metas`."""
    candidates = (Method.ZSTD, Method.ZSTD_PREFIX) if context else (Method.ZSTD, Method.LZMA)
    return pack_blob(b"".join(encoded), context=context, candidates=candidates)


def read_metas(head: PackHead, old_trees: Container[ObjectId], context: bytes) -> list[PackedTree]:
    """The trees that the pack brings, in the order of the walk, each verified.

    `old_trees`: every tree that `head.from_tree` reaches. `context`: `metas_context` of them. A
    tree is cut off by the size that its parent names, hashed, and only then decoded, so a head can
    only bring what its `to_tree` reaches. Raises `FormatError` if one is wrong, missing or left
    over. Memory: 64 MiB of encoded trees at most, and their decoded form.
    """
    data = unpack_blob(head.metas, MAX_METAS, context=context)
    trees = _TreeCutter(data)
    if head.to_tree in old_trees:
        trees.finish()
        return []
    stack = [trees.cut(head.to_tree, head.to_size)]
    while stack:
        for entry in stack[-1]:
            if not isinstance(entry, DirectoryEntry) or entry.id in old_trees:
                continue
            if not trees.has(entry.id, entry.size):
                if len(stack) > MAX_DEPTH:
                    raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
                stack.append(trees.cut(entry.id, entry.size))
                break
        else:
            stack.pop()
    return trees.finish()


class _TreeCutter:
    """Takes trees one by one from the front of their concatenation."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._found: dict[ObjectId, PackedTree] = {}

    def cut(self, tree_id: ObjectId, size: int) -> Iterator[Entry]:
        """The entries of the next tree, which must be this one."""
        data = self._data[self._position : self._position + size]
        if len(data) != size or hash_bytes(data) != tree_id:
            raise FormatError(f"tree {tree_id.hex()} of a pack is missing, cut short or wrong")
        self._position += size
        packed = PackedTree(tree_id, data, decode_tree(data))
        self._found[tree_id] = packed
        return iter(packed.tree.entries)

    def has(self, tree_id: ObjectId, size: int) -> bool:
        """Whether the tree was taken already; refuses a second size for it."""
        packed = self._found.get(tree_id)
        if packed is not None and len(packed.data) != size:
            raise FormatError(f"tree {tree_id.hex()} of a pack has two sizes")
        return packed is not None

    def finish(self) -> list[PackedTree]:
        """All trees taken; nothing may be left."""
        if self._position != len(self._data):
            raise FormatError(f"{len(self._data) - self._position} bytes after a pack's trees")
        return list(self._found.values())
