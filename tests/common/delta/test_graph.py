"""Segments of the pack graph: one encoding inside, bounded, chained by hashes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import object_ids
from hacktree.common.delta import graph
from hacktree.common.delta.graph import (
    EMPTY_SEGMENT,
    MAX_SEGMENT_SIZE,
    SEGMENT_LENGTH,
    Edge,
    Segment,
    add_edges,
    decode_sealed_segment,
    decode_segment,
    encode_segment,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.zstandard import compress, decompress_bounded


def _name(text: object) -> ObjectId:
    return hash_bytes(repr(text).encode())


def _edge(number: int, **fields: Any) -> Edge:
    values: dict[str, Any] = {
        "old": _name(number) if number % 7 else None,
        "new": _name(number + 1),
        "pack": _name(("pack", number)),
        "head_length": 100 + number,
        "length": 70_000,
        "entries": 3,
        "decoded": 1_000_000,
        "cost": 12,
    }
    return Edge(**{**values, **fields})


_trees = st.sampled_from([_name(letter) for letter in "abcde"])


@st.composite
def edges(draw: st.DrawFn) -> Edge:
    """Any edge between a few trees."""
    new = draw(_trees)
    length = draw(st.integers(1, 1 << 40))
    return Edge(
        old=draw(st.none() | _trees.filter(lambda tree: tree != new)),
        new=new,
        pack=draw(object_ids),
        head_length=draw(st.integers(1, min(length, 32 << 20))),
        length=length,
        entries=draw(st.integers(0, 2_000_000)),
        decoded=draw(st.integers(0, 1 << 50)),
        cost=draw(st.integers(0, 1 << 40)),
    )


segments = st.builds(
    Segment,
    st.lists(edges(), max_size=6, unique_by=lambda edge: edge.pack).map(tuple),
    st.none() | object_ids,
)


@given(segments)
def test_a_segment_decodes_to_itself(segment: Segment) -> None:
    """Nothing is lost; the same segment has the same bytes."""
    data = encode_segment(segment)
    assert decode_segment(data) == segment
    assert encode_segment(decode_segment(data)) == data


def _plain(edge_rows: Any = None, **fields: Any) -> bytes:
    """The msgpack of a segment, which may break any rule."""
    value = {
        "tag": "graph",
        "format": 1,
        "trees": [_name("a"), _name("b")],
        "edges": [[1, 1, _name("p"), 10, 20, 1, 1, 1]] if edge_rows is None else edge_rows,
        "older": b"",
        **fields,
    }
    return msgspec.msgpack.encode(list(value.values()))


def test_the_sample_itself_is_accepted() -> None:
    """So that what is refused below is refused for its one fault."""
    assert decode_segment(compress(_plain(), 3)).edges[0].old == _name("a")


_ROW = [1, 1, _name("p"), 10, 20, 1, 1, 1]


def _with(index: int, value: object) -> bytes:
    return _plain([[*_ROW[:index], value, *_ROW[index + 1 :]]])


HOSTILE = {
    "version": _plain(format=2),
    "tag": _plain(tag="pack"),
    "self-edge": _with(1, 0),
    "old index": _with(0, 3),
    "new index": _with(1, 2),
    "negative": _with(1, -1),
    "2**63 head": _with(3, 1 << 63),
    "2**63 length": _with(4, 1 << 63),
    "2**63 - 1 length": _with(4, (1 << 63) - 1),
    "2**64 - 1 entries": _with(5, (1 << 64) - 1),
    "2**63 decoded": _with(6, 1 << 63),
    "2**63 cost": _with(7, 1 << 63),
    "no head": _with(3, 0),
    "head longer than pack": _with(3, 21),
    "head of 33 MiB": _plain([[1, 1, _name("p"), 33 << 20, 34 << 20, 1, 1, 1]]),
    "pack of 2 TiB": _with(4, 1 << 41),
    "entries": _with(5, 2_000_001),
    "short pack": _with(2, b"short"),
    "short tree": _plain(trees=[_name("a"), b"short"]),
    "tree unused": _plain(trees=[_name("a"), _name("b"), _name("c")]),
    "tree twice": _plain(trees=[_name("a"), _name("a")]),
    "trees in another order": _plain([[2, 0, *_ROW[2:]]]),
    "pack twice": _plain([_ROW, [0, *_ROW[1:]]]),
    "older of 31 bytes": _plain(older=bytes(31)),
    "float": _with(7, 1.0),
    "extra field": _plain([[*_ROW, 1]]),
    "513 edges": _plain([[*_ROW[:2], _name(n), *_ROW[3:]] for n in range(513)]),
    "trailing": _plain() + b"\0",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_segment_that_breaks_a_rule_is_refused(name: str) -> None:
    """With our own error, before anything of it is used."""
    with pytest.raises(FormatError):
        decode_segment(compress(HOSTILE[name], 3))


def test_every_truncation_is_refused() -> None:
    """Of the file, and of what is compressed in it."""
    data = encode_segment(Segment((_edge(1), _edge(2)), _name("older")))
    for length in range(len(data)):
        with pytest.raises(FormatError):
            decode_segment(data[:length])
    plain = decompress_bounded(data, MAX_SEGMENT_SIZE)
    for length in range(len(plain)):
        with pytest.raises(FormatError):
            decode_segment(compress(plain[:length], 3))
    with pytest.raises(FormatError):
        decode_segment(data + data)


@given(st.data())
def test_a_damaged_segment_raises_only_our_own_error(data: st.DataObject) -> None:
    """Or it is another segment, in its one encoding."""
    plain = bytearray(decompress_bounded(encode_segment(data.draw(segments)), MAX_SEGMENT_SIZE))
    for _ in range(data.draw(st.integers(1, 3))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    try:
        segment = decode_segment(compress(bytes(plain), 3))
    except FormatError:
        return
    assert decompress_bounded(encode_segment(segment), MAX_SEGMENT_SIZE) == plain


@given(st.binary(max_size=100))
def test_noise_raises_only_our_own_error(noise: bytes) -> None:
    """As the file, and as what is compressed in it."""
    for hostile in (noise, compress(noise, 3)):
        with pytest.raises(FormatError):
            decode_segment(hostile)


def test_a_bomb_costs_256_kib() -> None:
    """A gigabyte of zeros in a small frame is refused at the limit; so is a large file."""
    with pytest.raises(FormatError, match="more than"):
        decode_segment(compress(bytes(1 << 26), 3))
    with pytest.raises(FormatError, match="exceeds"):
        decode_segment(bytes(MAX_SEGMENT_SIZE + 1))


def test_a_sealed_segment_is_what_its_name_says() -> None:
    """Checked before it is decompressed."""
    data = encode_segment(Segment((_edge(1),), None))
    assert decode_sealed_segment(data, hash_bytes(data)).edges == (_edge(1),)
    with pytest.raises(FormatError, match="name"):
        decode_sealed_segment(data, _name("another"))


def test_the_limits_fit_into_a_segment() -> None:
    """512 edges of the largest numbers, each between two trees of its own."""
    largest = {"length": 1 << 40, "decoded": 1 << 50, "cost": 1 << 40, "head_length": 32 << 20}
    edges = tuple(
        _edge(n, old=_name(("o", n)), new=_name(("n", n)), **largest)
        for n in range(2 * SEGMENT_LENGTH)
    )
    assert decode_segment(encode_segment(Segment(edges, _name("older")))).edges == edges
    with pytest.raises(FormatError, match="512"):
        Segment((*edges, _edge(1000)), None)


@pytest.mark.parametrize(
    "fields",
    [
        {"new": b"short"},
        {"old": _name(2)},
        {"head_length": 0},
        {"head_length": 70_001},
        {"length": 1 << 63},
        {"entries": -1},
        {"decoded": 1 << 63},
        {"cost": -1},
    ],
    ids=repr,
)
def test_an_impossible_edge_cannot_be_made(fields: dict[str, Any]) -> None:
    """A writer hears of it at once."""
    with pytest.raises(FormatError):
        _edge(1, **fields)


def _chain(files: dict[ObjectId, bytes], tail: bytes) -> list[Edge]:
    segment = decode_segment(tail)
    found = list(segment.edges)
    while segment.older is not None:
        segment = decode_sealed_segment(files[segment.older], segment.older)
        found += segment.edges
    return found


def test_a_graph_grows_by_sealing_its_oldest_edges() -> None:
    """No edge is lost, sealed files never change, and making it anew gives the same files."""
    edges = [_edge(n) for n in range(3 * SEGMENT_LENGTH + 5)]
    files: dict[ObjectId, bytes] = {}
    tail = encode_segment(EMPTY_SEGMENT)
    for edge in reversed(edges):
        update = add_edges(decode_segment(tail), [edge])
        files.update(update.sealed)
        tail = update.tail
    assert _chain(files, tail) == edges
    assert SEGMENT_LENGTH < len(decode_segment(tail).edges) <= 2 * SEGMENT_LENGTH
    anew = add_edges(EMPTY_SEGMENT, edges)
    assert (dict(anew.sealed), anew.tail) == (files, tail)


def test_a_full_tail_is_not_sealed_yet() -> None:
    """512 edges stay together; one more leaves 257."""
    edges = [_edge(n) for n in range(2 * SEGMENT_LENGTH)]
    assert not add_edges(EMPTY_SEGMENT, edges).sealed
    update = add_edges(graph.Segment(tuple(edges), None), [_edge(1000)])
    assert len(update.sealed) == 1
    assert len(decode_segment(update.tail).edges) == SEGMENT_LENGTH + 1
