"""Heads of packs: bounded before they are believed, one encoding, trees verified one by one."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.strategies import (
    MemoryTrees,
    Outline,
    make_file,
    make_symlink,
    make_tree,
    object_ids,
    outlines,
    store_outline,
    tree_sizes,
)
from hacktree.common.delta import pack
from hacktree.common.delta.contents import compare_trees, list_contents
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.pack import (
    MAX_METAS,
    FrameInfo,
    PackEntries,
    PackHead,
    check_sizes,
    decode_entries,
    decode_head,
    encode_entries,
    encode_head,
    frame_offsets,
    metas_context,
    pack_metas,
    read_metas,
)
from hacktree.common.delta.streams import Blob, Method, pack_blob
from hacktree.common.delta.varint import encode_varints
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, Entry, encode_tree
from hacktree.common.objects.walk import MAX_DEPTH
from hacktree.common.objects.zstandard import compress

OLD, NEW = hash_bytes(b"old"), hash_bytes(b"new")
NOTHING = Blob(Method.STORED, 0, b"")
FRAME = FrameInfo(300, hash_bytes(b"frame"), 1000, 50)


def _head(**fields: Any) -> PackHead:
    values: dict[str, Any] = {
        "format": 1,
        "from_tree": OLD,
        "to_tree": NEW,
        "to_size": 100,
        "dictionary": b"",
        "shared": NOTHING,
        "frames": (FRAME,),
        "entries": pack_blob(encode_varints(np.array([1, 2, 0, 0], np.uint64))),
        "metas": NOTHING,
    }
    return PackHead(**{**values, **fields})


def _columns(
    counts: Sequence[int], targets: Sequence[int], bases: Sequence[int], kinds: Sequence[int]
) -> PackEntries:
    columns = [np.array(column, np.int64) for column in (counts, targets, bases, kinds)]
    return PackEntries(*columns)


def _lists(entries: PackEntries) -> list[list[int]]:
    columns = (entries.counts, entries.targets, entries.bases, entries.kinds)
    return [column.tolist() for column in columns]


def _decode(data: bytes) -> PackHead:
    """Decode under the right name: the name proves nothing to whoever chose it."""
    return decode_head(data, hash_bytes(data))


blobs = st.builds(lambda data: Blob(Method.STORED, len(data), data), st.binary(max_size=20))
frame_infos = st.builds(
    FrameInfo,
    st.integers(1, 1 << 30),
    object_ids,
    st.integers(1, 1 << 36),
    st.integers(0, 1 << 40),
)
heads = st.builds(
    PackHead,
    st.just(1),
    # Never the same tree twice: such a head can't be made.
    st.just(b"") | object_ids.map(lambda name: ObjectId(b"\x00" + name[1:])),
    object_ids.map(lambda name: ObjectId(b"\xff" + name[1:])),
    tree_sizes,
    st.binary(max_size=20),
    blobs,
    st.lists(frame_infos, max_size=4).map(tuple),
    blobs,
    blobs,
)


@given(heads)
def test_a_head_decodes_to_itself(head: PackHead) -> None:
    """Nothing is lost, and the name follows from the value."""
    data = encode_head(head)
    assert _decode(data) == head
    assert encode_head(_decode(data)) == data


def test_a_head_under_another_name_is_not_decoded() -> None:
    """Its hash is checked first."""
    with pytest.raises(FormatError, match="name says"):
        decode_head(encode_head(_head()), OLD)


def test_every_truncation_and_addition_is_refused() -> None:
    """A head ends where its encoding ends."""
    data = encode_head(_head())
    for hostile in [data[:length] for length in range(len(data))] + [data + b"\0", data + data]:
        with pytest.raises(FormatError):
            _decode(hostile)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_head_raises_only_our_own_error(data: st.DataObject) -> None:
    """Or it is another head, in its one encoding; what it leads to is bounded as well."""
    mutant = bytearray(encode_head(data.draw(heads | st.just(_head()))))
    for _ in range(data.draw(st.integers(1, 3))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    try:
        head = _decode(bytes(mutant))
    except FormatError:
        return
    assert encode_head(head) == mutant
    for read in (lambda: decode_entries(head, 5, 5), lambda: read_metas(head, (), b"")):
        try:
            read()
        except FormatError:
            continue


HUGE = [1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("place", ["length", "decoded", "cost", "to_size", "shared", "metas"])
def test_a_number_near_2_to_63_is_refused(place: str, number: int) -> None:
    """Whatever it counts, and before anything is added to it."""
    frame = [300, FRAME.digest, 1000, 50]
    value: dict[str, Any] = {
        "tag": "pack",
        **msgspec.structs.asdict(_head()),
        "frames": [frame],
        "shared": [1, 0, b""],
        "metas": [1, 0, b""],
    }
    if place in ("length", "decoded", "cost"):
        frame[{"length": 0, "decoded": 2, "cost": 3}[place]] = number
        allowed = {"decoded": 1 << 36, "cost": 1 << 40}.get(place, 0)
        if number <= allowed:
            return
    elif place == "to_size":
        value[place] = number
    else:
        value[place][1] = number
    with pytest.raises(FormatError):
        _decode(msgspec.msgpack.encode(list(value.values())))


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 2},
        {"from_tree": bytes(31)},
        {"from_tree": NEW},
        {"to_tree": bytes(33)},
        {"to_size": 0},
        {"dictionary": bytes((256 << 10) + 1)},
        {"frames": (FrameInfo(0, OLD, 1, 1),)},
        {"frames": (FrameInfo(1, ObjectId(b"short"), 1, 1),)},
        {"frames": (FrameInfo(1, OLD, 0, 1),)},
        {"frames": (FRAME,) * 100_001},
        {"shared": Blob(Method.ZSTD_DICTIONARY, 0, b"")},
        {"entries": Blob(Method.LZMA_X86, 0, b"")},
        {"entries": Blob(Method.ZSTD_PREFIX, 0, b"")},
        {"metas": Blob(Method.ZSTD_DICTIONARY, 0, b"")},
        {"metas": Blob(6, 0, b"")},
        {"metas": Blob(Method.ZSTD, MAX_METAS + 1, b"")},
    ],
    ids=lambda fields: repr(fields)[:40],
)
def test_a_head_that_breaks_a_rule_is_neither_made_nor_read(fields: dict[str, Any]) -> None:
    """A writer hears of it at once; a reader before it uses any of it."""
    with pytest.raises(FormatError):
        encode_head(_head(**fields))
    value = {"tag": "pack", **msgspec.structs.asdict(_head()), **fields}
    with pytest.raises(FormatError):
        _decode(msgspec.msgpack.encode(list(value.values())))


def test_frames_that_exceed_a_pack_together_are_refused() -> None:
    """Each may be large; offsets stay far from 2**63."""
    large = FrameInfo(1 << 30, OLD, 1, 1)
    assert int(frame_offsets(_head(frames=(large,) * 1024), 10)[-1]) == (1 << 40) + 10
    with pytest.raises(FormatError, match="exceed"):
        _head(frames=(large,) * 1025)


def test_frames_follow_the_head_and_one_another() -> None:
    """No two overlap, whatever a head says."""
    frames = tuple(FrameInfo(length, OLD, 1, 1) for length in (5, 7, 1))
    assert frame_offsets(_head(frames=frames), 100).tolist() == [100, 105, 112, 113]


@st.composite
def columns(draw: st.DrawFn) -> PackEntries:
    """Any entries of a pack with 50 targets and 60 bases."""
    counts = draw(st.lists(st.integers(1, 5), max_size=5))
    rows = []
    for _ in range(sum(counts)):
        kind = draw(st.sampled_from(list(EntryKind)))
        base = draw(st.integers(0, 59))
        if kind is EntryKind.FULL or (kind is EntryKind.MEMBER and base % 2):
            base = -1
        rows.append((draw(st.integers(0, 49)), base, int(kind)))
    targets, bases, kinds = zip(*rows, strict=True) if rows else ((), (), ())
    return _columns(counts, targets, bases, kinds)


def _carry(data: bytes, frames: int) -> PackHead:
    return _head(frames=(FRAME,) * frames, entries=Blob(Method.STORED, len(data), data))


@given(columns())
def test_entries_decode_to_themselves(entries: PackEntries) -> None:
    """Columns are read as they were written."""
    head = _carry(encode_entries(entries), len(entries.counts))
    assert _lists(decode_entries(head, 50, 60)) == _lists(entries)


@given(columns(), st.data())
def test_damaged_entries_are_refused_or_are_others(
    entries: PackEntries, data: st.DataObject
) -> None:
    """No two encodings give the same columns."""
    mutant = bytearray(encode_entries(entries)) + data.draw(st.binary(max_size=2))
    if mutant:
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_entries(_carry(bytes(mutant), len(entries.counts)), 50, 60)
    except FormatError:
        return
    assert encode_entries(found) == mutant
    assert all(0 <= target < 50 for target in found.targets.tolist())
    assert all(-1 <= base < 60 for base in found.bases.tolist())


def _numbers(*values: int) -> bytes:
    return encode_varints(np.array(values, np.uint64))


HOSTILE_ENTRIES = {
    "count of 0": _numbers(0),
    "count without entry": _numbers(2, 2, 0, 0),
    "count of 2**64 - 1": _numbers((1 << 64) - 1, 2, 0, 0),
    "target out of range": _numbers(1, 102, 0, 0),
    "target below 0": _numbers(1, 1, 0, 0),
    "target near 2**63": _numbers(1, (1 << 64) - 2, 0, 0),
    "target near 2**62": _numbers(1, 1 << 63, 0, 0),
    "base out of range": _numbers(1, 2, 123, 1),
    "base below 0": _numbers(1, 2, 2, 1),
    "base near 2**63": _numbers(1, 2, (1 << 64) - 1, 1),
    "whole with a base": _numbers(1, 2, 3, 0),
    "delta without a base": _numbers(1, 2, 0, 1),
    "kind 4": _numbers(1, 2, 3, 4),
    "kind near 2**63": _numbers(1, 2, 3, (1 << 64) - 1),
    "columns of different lengths": _numbers(1, 2, 0),
    "a column too many": _numbers(1, 2, 0, 0, 0),
    "longer than needed": b"\x01\x82\x00\x00\x00",
    "cut within a number": b"\x01\x02\x00\x00\x80",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE_ENTRIES)
def test_entries_that_break_a_rule_are_refused(name: str) -> None:
    """Its neighbour, one whole object in one frame, is accepted."""
    decode_entries(_carry(_numbers(1, 2, 0, 0), 1), 50, 60)
    with pytest.raises(FormatError):
        decode_entries(_carry(HOSTILE_ENTRIES[name], 1), 50, 60)


def test_more_entries_than_targets_can_use_are_refused_before_they_are_read() -> None:
    """Memory is bounded by the trees, which are verified, and not by the head."""
    frames = 100_000
    data = bytes([20]) * frames + bytes(6_000_000)
    head = _head(frames=(FRAME,) * frames, entries=Blob(Method.ZSTD, len(data), compress(data, 3)))
    with pytest.raises(FormatError, match="numbers for its entries"):
        decode_entries(head, 10_000, 0)


def test_a_bomb_among_the_entries_ends_at_its_declared_length() -> None:
    """And a declared length is bounded by the head."""
    head = _head(entries=Blob(Method.ZSTD, 4, compress(bytes(1 << 26), 3)))
    with pytest.raises(FormatError):
        decode_entries(head, 5, 5)


def test_frames_must_decode_to_what_the_trees_say() -> None:
    """A planner may rely on the bytes that a head tells."""
    entries = _columns([2, 1], [0, 2, 2], [-1, -1, 0], [0, 0, 1])
    sizes = [10, 20, 30]
    frames = (FrameInfo(5, OLD, 40, 1), FrameInfo(5, OLD, 30, 1))
    check_sizes(_head(frames=frames), entries, sizes)
    for wrong in ((40, 31), (39, 30), (30, 40)):
        told = tuple(FrameInfo(5, OLD, decoded, 1) for decoded in wrong)
        with pytest.raises(FormatError, match="more or fewer"):
            check_sizes(_head(frames=told), entries, sizes)


# Trees


def _carry_trees(trees: MemoryTrees, old: ObjectId | None, new: ObjectId) -> tuple[PackHead, bytes]:
    """A head that brings `new`'s trees to whoever has `old`, and the context to read them with."""
    found = compare_trees(trees.load, old, new)
    context = metas_context([encode_tree(trees.load(tree)) for tree in found.old_trees])
    metas = pack_metas([encode_tree(trees.load(tree)) for tree in found.metas], context)
    size = len(encode_tree(trees.load(new)))
    return _head(from_tree=old or b"", to_tree=new, to_size=size, metas=metas), context


@given(outlines, outlines)
def test_trees_arrive_as_they_were_sent(before: Outline, after: Outline) -> None:
    """Exactly those that the old tree lacks, in the order of the walk."""
    trees = MemoryTrees()
    old, new = store_outline(trees, before), store_outline(trees, after)
    if old == new:
        return
    head, context = _carry_trees(trees, old, new)
    arrived = read_metas(head, list_contents(trees.load, old).trees, context)
    assert [tree.id for tree in arrived] == list(compare_trees(trees.load, old, new).metas)
    assert all(hash_bytes(tree.data) == tree.id for tree in arrived)
    assert all(tree.tree == trees.load(tree.id) for tree in arrived)


def _sample() -> tuple[MemoryTrees, ObjectId]:
    trees = MemoryTrees()
    below: list[Entry] = [make_file(b"x", b"1"), make_symlink(b"y", b"x")]
    root = trees.root(
        trees.directory(b"a", below),
        trees.directory(b"b", below),
        trees.directory(b"c", [make_file(b"z", b"2")]),
    )
    return trees, root


def _stored(head: PackHead, data: bytes) -> PackHead:
    return msgspec.structs.replace(head, metas=Blob(Method.STORED, len(data), data))


def test_every_change_of_the_trees_is_refused() -> None:
    """Truncated anywhere, longer, in another order, or with any byte changed."""
    trees, root = _sample()
    head, _ = _carry_trees(trees, None, root)
    good = [tree.data for tree in read_metas(head, (), b"")]
    data = b"".join(good)
    hostile = [data[:length] for length in range(len(data))]
    hostile += [data + b"\0", data + good[-1], b"".join(reversed(good)), data + data]
    hostile += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    for changed in hostile:
        with pytest.raises(FormatError):
            read_metas(_stored(head, changed), (), b"")


def test_a_fabricated_tree_is_refused() -> None:
    """A valid tree that the target doesn't name can't be brought along, nor replace one."""
    trees, root = _sample()
    head, _ = _carry_trees(trees, None, root)
    good = [tree.data for tree in read_metas(head, (), b"")]
    fabricated = encode_tree(make_tree([make_file(b"setuid", b"evil", 0o4755)]))
    for parts in ([*good, fabricated], [good[0], fabricated, *good[2:]], [fabricated]):
        with pytest.raises(FormatError):
            read_metas(_stored(head, b"".join(parts)), (), b"")


def test_a_size_that_the_parent_lies_about_is_refused() -> None:
    """Too short, too long, and a second size for a tree that was right once."""
    trees = MemoryTrees()
    below, size = trees.store([make_file(b"x", b"1")])
    inner = encode_tree(trees.load(below))
    for first, second in ((size - 1, size), (size + 1, size), (size, size + 1)):
        sizes = zip((b"a", b"b"), (first, second), strict=True)
        entries = [DirectoryEntry(name, 0, 0, 0, (), below, told) for name, told in sizes]
        root = encode_tree(make_tree(entries))
        head = _stored(_head(to_tree=hash_bytes(root), to_size=len(root)), root + inner)
        with pytest.raises(FormatError):
            read_metas(head, (), b"")


def test_trees_nest_as_deeply_as_elsewhere() -> None:
    """And no deeper."""
    for count, fits in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        encoded = [encode_tree(make_tree([]))]
        for _ in range(count):
            below = encoded[0]
            entry = DirectoryEntry(b"d", 0, 0, 0, (), hash_bytes(below), len(below))
            encoded.insert(0, encode_tree(make_tree([entry])))
        head = _head(to_tree=hash_bytes(encoded[0]), to_size=len(encoded[0]))
        head = _stored(head, b"".join(encoded))
        if fits:
            assert len(read_metas(head, (), b"")) == count + 1
        else:
            with pytest.raises(FormatError, match="deeper"):
                read_metas(head, (), b"")


def test_a_target_inside_the_old_tree_brings_nothing() -> None:
    """A subtree of what one has needs no trees, and may bring none."""
    trees, root = _sample()
    subtree = next(e.id for e in trees.load(root).entries if isinstance(e, DirectoryEntry))
    head, context = _carry_trees(trees, root, subtree)
    known = list_contents(trees.load, root).trees
    assert not read_metas(head, known, context)
    with pytest.raises(FormatError, match="after"):
        read_metas(_stored(head, b"\0"), known, b"")


def test_another_context_gives_no_other_trees() -> None:
    """Whoever has another old tree fails; nothing wrong comes out."""
    trees, root = _sample()
    old = trees.root(*trees.load(root).entries, make_file(b"q", b"3"))
    head, context = _carry_trees(trees, old, root)
    assert head.metas.method == Method.ZSTD_PREFIX
    known = list_contents(trees.load, old).trees
    read_metas(head, known, context)
    for wrong in (b"", context[:-1], context + b"\0", bytes(len(context))):
        with pytest.raises(FormatError):
            read_metas(head, known, wrong)


def test_old_trees_beyond_64_mib_are_no_context() -> None:
    """Writer and reader agree on it without being told."""
    assert metas_context([b"ab", b"c"]) == b"abc"
    assert metas_context([bytes(pack.MAX_METAS_CONTEXT), b"c"]) == b""
