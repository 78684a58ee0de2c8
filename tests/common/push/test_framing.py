"""Batches: what is encoded comes out, however it is cut; what is hostile costs nothing."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.push.framing import (
    BATCH_END,
    HEADER_LENGTH,
    MAX_LENGTHS,
    BatchDecoder,
    BatchEvent,
    ObjectBegin,
    ObjectEnd,
    ObjectKey,
    ObjectKind,
    ObjectPart,
    encode_header,
)

KEYS = st.builds(
    ObjectKey,
    st.sampled_from(ObjectKind),
    st.binary(min_size=32, max_size=32).map(ObjectId),
)
OBJECTS = st.lists(st.tuples(KEYS, st.binary(min_size=1, max_size=300)), max_size=8)


def encode(objects: list[tuple[ObjectKey, bytes]]) -> bytes:
    frames = [encode_header(key, len(data)) + data for key, data in objects]
    return b"".join(frames) + BATCH_END


def decode(pieces: list[bytes]) -> list[tuple[ObjectKey, bytes]]:
    """The objects of a batch that arrives in these pieces."""
    decoder = BatchDecoder()
    objects: list[tuple[ObjectKey, bytes]] = []
    current: list[tuple[ObjectBegin, bytearray]] = []
    for piece in pieces:
        for event in decoder.feed(piece):
            match event:
                case ObjectBegin():
                    current.append((event, bytearray()))
                case ObjectPart(data):
                    current[-1][1].extend(data)
                case ObjectEnd():
                    begin, found = current.pop()
                    assert len(found) == begin.length
                    objects.append((begin.key, bytes(found)))
    decoder.close()
    return objects


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(OBJECTS, st.lists(st.integers(0, 10_000), max_size=30))
def test_objects_come_out_however_the_stream_is_cut(
    objects: list[tuple[ObjectKey, bytes]], places: list[int]
) -> None:
    assert decode(cut(encode(objects), places)) == objects


@given(OBJECTS, st.data())
def test_a_batch_that_is_cut_short_anywhere_is_noticed(
    objects: list[tuple[ObjectKey, bytes]], data: st.DataObject
) -> None:
    """Even between two objects: the end must be said."""
    whole = encode(objects)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FormatError, match="cut short"):
        decode([whole[:length]])


@given(OBJECTS, st.binary(min_size=1, max_size=50))
def test_nothing_may_follow_the_end(objects: list[tuple[ObjectKey, bytes]], more: bytes) -> None:
    with pytest.raises(FormatError, match="follow the end"):
        decode([encode(objects), more])


@given(st.binary(max_size=500))
def test_any_bytes_are_a_batch_or_refused(data: bytes) -> None:
    try:
        objects = decode([data])
    except FormatError:
        return
    assert encode(objects) == data


@pytest.mark.parametrize("kind", list(ObjectKind))
@pytest.mark.parametrize("length", [0, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_length_out_of_bounds_is_refused_with_the_header(kind: ObjectKind, length: int) -> None:
    """Before a byte of the object is waited for, let alone reserved."""
    header = struct.pack("<B32sQ", kind, bytes(32), length)
    assert len(header) == HEADER_LENGTH
    with pytest.raises(FormatError, match="objects have 1 to"):
        list(BatchDecoder().feed(header))


@pytest.mark.parametrize("kind", list(ObjectKind))
def test_the_longest_object_is_accepted_and_not_waited_for(kind: ObjectKind) -> None:
    key = ObjectKey(kind, ObjectId(bytes(32)))
    events: list[BatchEvent] = list(BatchDecoder().feed(encode_header(key, MAX_LENGTHS[kind])))
    assert events == [ObjectBegin(key, MAX_LENGTHS[kind])]
    with pytest.raises(FormatError):
        encode_header(key, MAX_LENGTHS[kind] + 1)


@pytest.mark.parametrize("kind", [3, 4, 127, 255])
def test_a_kind_that_nobody_knows_is_refused(kind: int) -> None:
    with pytest.raises(FormatError, match=f"{kind} is no kind"):
        list(BatchDecoder().feed(struct.pack("<B32sQ", kind, bytes(32), 1)))
