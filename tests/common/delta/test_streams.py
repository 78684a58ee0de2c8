"""Varints, blobs and frames: exact round trips, and bounds that hostile bytes can't pass."""

import lzma
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.delta.codec import encode_delta
from hacktree.common.delta.entry import EntryKind, encode_full
from hacktree.common.delta.frame import (
    FrameReader,
    encode_frame,
    entry_size,
    frame_cost,
    stream_sizes,
)
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.streams import Blob, Method, pack_blob, unpack_blob
from hacktree.common.delta.varint import decode_varints, encode_varints, unzigzag, zigzag
from hacktree.common.objects.errors import FormatError

U64 = st.integers(0, 2**64 - 1)


@given(st.lists(U64))
def test_varints_come_back(values: list[int]) -> None:
    data = encode_varints(np.array(values, np.uint64))
    assert decode_varints(data, len(values)).tolist() == values


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_zigzag_comes_back(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert np.array_equal(unzigzag(zigzag(array)), array)


@given(st.binary(max_size=40), st.integers(0, 50))
def test_varints_have_one_encoding(data: bytes, count: int) -> None:
    try:
        values = decode_varints(data, count)
    except FormatError:
        return
    assert encode_varints(values) == data


@pytest.mark.parametrize(
    "data", [b"\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x80"]
)
def test_an_odd_varint_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_varints(data, 1)


@pytest.mark.parametrize("method", list(Method))
@given(data=st.binary(max_size=300), repeats=st.integers(1, 50))
def test_every_method_gives_the_bytes_back(method: Method, data: bytes, repeats: int) -> None:
    context = b"a prefix of some length, " + data
    blob = pack_blob(data * repeats, context=context, candidates=[method])
    assert unpack_blob(blob, len(data) * repeats, context=context) == data * repeats


def test_what_is_dense_is_stored() -> None:
    """Only if that is a lot to decode for hardly a byte."""
    noise = random.Random(1).randbytes(1_100_000)
    assert pack_blob(noise + bytes(20_000)).method == Method.STORED
    assert pack_blob(noise + bytes(60_000)).method != Method.STORED
    assert pack_blob(noise[:500_000] + bytes(10_000)).method != Method.STORED


def test_stored_content_is_decoded_sooner() -> None:
    noise, text = random.Random(1).randbytes(1_100_000), b"text" * 275_000
    dense, other = encode_full(noise), encode_full(text)
    assert dense.cost == other.cost
    assert frame_cost([other], encode_frame([other])) == other.cost
    assert frame_cost([dense], encode_frame([dense])) == pytest.approx(dense.cost / 2, rel=0.01)


@pytest.mark.parametrize("method", [m for m in Method if m is not Method.STORED])
def test_a_stream_of_another_length_is_refused(method: Method) -> None:
    good = pack_blob(b"abc" * 1000, candidates=[method])
    assert good.method == method
    for length in (0, 1, 2999, 3001, 1 << 20):
        with pytest.raises(FormatError):
            unpack_blob(Blob(good.method, length, good.data), 1 << 20)
    with pytest.raises(FormatError):
        unpack_blob(good, 2999)
    for cut in range(len(good.data)):
        with pytest.raises(FormatError):
            unpack_blob(Blob(good.method, good.length, good.data[:cut]), 1 << 20)
    with pytest.raises(FormatError):
        unpack_blob(Blob(good.method, good.length, good.data + b"\0"), 1 << 20)


def test_a_bomb_is_not_unpacked() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
    bomb = lzma.compress(bytes(200 << 20), lzma.FORMAT_RAW, filters=filters)
    with pytest.raises(FormatError):
        unpack_blob(Blob(Method.LZMA, 1000, bomb), 1000)


OLD = b"".join(b"line %d\n" % number for number in range(400))
NEW = OLD.replace(b"line 33\n", b"line thirty-three\n")


def _read(frame: bytes, kinds: list[EntryKind], sizes: list[int]) -> FrameReader:
    return FrameReader(frame, kinds, sizes, b"", Shared())


def test_any_entry_of_a_frame_can_be_read_without_the_others() -> None:
    delta = encode_delta(OLD, NEW, Shared())
    entries = [encode_full(b"first"), delta, encode_full(b"second!"), delta]
    sizes = [5, len(NEW), 7, len(NEW)]
    reader = _read(encode_frame(entries), [entry.kind for entry in entries], sizes)
    for index in (3, 0, 2, 1):
        output = bytearray(sizes[index])
        reader.decode(index, OLD if index % 2 else None, memoryview(output))
        assert bytes(output) == [b"first", NEW, b"second!", NEW][index]


def test_the_size_of_an_entry_is_that_of_its_frame() -> None:
    delta = encode_delta(OLD, NEW, Shared())
    assert entry_size(delta) == len(encode_frame([delta]))
    assert 0 < sum(stream_sizes(delta).values()) < entry_size(delta)


def test_a_frame_longer_than_its_objects_can_need_is_refused() -> None:
    frame = encode_frame([encode_full(bytes(6 << 20))])
    with pytest.raises(FormatError, match="longer than its objects"):
        _read(frame, [EntryKind.FULL], [100])


def test_a_damaged_frame_is_only_an_error() -> None:
    delta = encode_delta(OLD, NEW, Shared())
    frame = encode_frame([delta, encode_full(b"whole")])
    random = np.random.default_rng(5)
    for _ in range(600):
        broken = bytearray(frame)
        for _ in range(int(random.integers(1, 4))):
            broken[int(random.integers(len(broken)))] ^= int(random.integers(1, 256))
        try:
            reader = _read(bytes(broken), [delta.kind, EntryKind.FULL], [len(NEW), 5])
            reader.decode(0, OLD, memoryview(bytearray(len(NEW))))
            reader.decode(1, None, memoryview(bytearray(5)))
        except FormatError:
            continue


@given(st.lists(st.tuples(st.integers(1, 2**20), st.integers(-1000, 1000)), max_size=20))
def test_shared_maps_come_back(runs: list[tuple[int, int]]) -> None:
    from hacktree.common.delta.btf import NumberMap, TypeMap

    starts = np.cumsum(np.array([step for step, _ in runs], np.int64))
    shifts = np.array([shift for _, shift in runs], np.int64)
    numbers = NumberMap(starts.astype(np.int64), shifts)
    decoded = Shared.decode(Shared(TypeMap(numbers, numbers)).encode())
    assert decoded.types.types.start.tolist() == starts.tolist()
    assert decoded.types.strings.shift.tolist() == shifts.tolist()


@given(st.binary(max_size=60))
def test_hostile_maps_are_only_an_error(data: bytes) -> None:
    try:
        shared = Shared.decode(data)
    except FormatError:
        return
    assert shared.encode() == data
