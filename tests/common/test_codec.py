"""Every value has one encoding, and hostile bytes raise nothing but `FormatError`.

These promises hold for each kind of object alike. What "the one encoding" is, is said here a second
time, in `canonical`: so that a decoder that compares with its own encoder is not its own judge.
"""

import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.strategies import commits, history_pages, make_file, make_symlink, make_tree, trees
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.commit import (
    MAX_COMMIT_SIZE,
    Commit,
    RootDirectory,
    Totals,
    decode_commit,
    encode_commit,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.history import HistoryPage, decode_page, encode_page
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, Tree, decode_tree, encode_tree

SAMPLE_TREE = make_tree(
    [
        DirectoryEntry(b"bin", 0o1755, 0, 70_000, (("user.a", b"1"),), hash_bytes(b"t"), 300),
        make_file(b"motd", b"hello"),
        make_symlink(b"sh", b"bin/dash"),
    ]
)
SAMPLE_COMMIT = Commit(
    format=1,
    root=RootDirectory(hash_bytes(b"t"), 300, 0o755, 0, 0, (("user.a", b"1"),)),
    parents=(hash_bytes(b"c"),),
    sequence=300,
    branch="gnomeos/builds",
    architecture="x86_64",
    time=1_700_000_000,
    version="1.2",
    subject="subject",
    body="",
    totals=Totals(1, 2, 3, 70_000),
    metadata={"n": -5, "packages": [["a", "1", "all"], "b"], "z": ""},
)
SAMPLE_PAGE = HistoryPage(1, (b"newest", b"older"), hash_bytes(b"page"))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: how it is coded, what is valid, and one sample."""

    name: str
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    values: st.SearchStrategy[Any]
    sample: Any

    def __repr__(self) -> str:
        return self.name


KINDS = [
    Kind("tree", decode_tree, encode_tree, trees, SAMPLE_TREE),
    Kind("commit", decode_commit, encode_commit, commits(), SAMPLE_COMMIT),
    Kind("history", decode_page, encode_page, history_pages, SAMPLE_PAGE),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=repr)


# msgpack, as its specification describes it: every header that can hold a value, shortest first.

_INTEGERS = (
    (0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"),
    (0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q"),
)  # fmt: skip
_LENGTHS = {
    "str": ((0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I")),
    "bin": ((0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I")),
    "array": ((0xDC, ">H"), (0xDD, ">I")),
    "map": ((0xDE, ">H"), (0xDF, ">I")),
}
_FIXED = {"str": (0xA0, 32), "array": (0x90, 16), "map": (0x80, 16)}


def headers(kind: str, number: int) -> Iterator[bytes]:
    """Every way to write an integer, or a length, that msgpack has; the shortest first."""
    if kind == "int":
        if -32 <= number < 128:
            yield bytes([number & 0xFF])
        forms: Iterable[tuple[int, str]] = _INTEGERS
    else:
        base, limit = _FIXED.get(kind, (0, 0))
        if number < limit:
            yield bytes([base | number])
        forms = _LENGTHS[kind]
    for code, layout in forms:
        try:
            yield bytes([code]) + struct.pack(layout, number)
        except struct.error:
            continue


def canonical(value: object) -> bytes:
    """The one encoding of plain data, by docs/format.md, "Canonical encoding"."""
    match value:
        case int():
            return next(headers("int", value))
        case str():
            return next(headers("str", len(value.encode()))) + value.encode()
        case bytes():
            return next(headers("bin", len(value))) + value
        case list() | tuple():
            return next(headers("array", len(value))) + b"".join(map(canonical, value))
        case dict():
            pairs = sorted((key.encode(), canonical(key) + canonical(value[key])) for key in value)
            return next(headers("map", len(value))) + b"".join(pair for _, pair in pairs)
    raise TypeError(value)


def plain(value: object) -> object:
    """A struct as lists, integers, text and bytes."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def tokens(data: bytes) -> Iterator[tuple[int, int, str, int]]:
    """(start, end, kind, number) of every header in `data`, which is well formed."""
    position = 0
    while position < len(data):
        kind, number, end = _header(data, position)
        yield position, end, kind, number
        position = end + number if kind in ("str", "bin") else end


def _header(data: bytes, at: int) -> tuple[str, int, int]:
    code = data[at]
    if code < 0x80 or code >= 0xE0:
        return "int", code if code < 0x80 else code - 256, at + 1
    for kind, (base, limit) in _FIXED.items():
        if base <= code < base + limit:
            return kind, code - base, at + 1
    for kind, forms in {"int": _INTEGERS, **_LENGTHS}.items():
        for form, layout in forms:
            if form == code:
                size = struct.calcsize(layout)
                return kind, struct.unpack_from(layout, data, at + 1)[0], at + 1 + size
    raise ValueError(f"no header: {code:#x}")


def respellings(data: bytes) -> Iterator[bytes]:
    """`data` with one header written in any other way that means the same, or nearly the same."""
    for start, end, kind, number in tokens(data):
        others = list(headers(kind, number))
        if kind == "int":
            others += [b"\xca" + struct.pack(">f", number), b"\xcb" + struct.pack(">d", number)]
            others += [b"\xc0", b"\xc2", b"\xc3"]
        elif kind in ("str", "bin"):
            others += headers("bin" if kind == "str" else "str", number)
        for other in others:
            if other != data[start:end]:
                yield data[:start] + other + data[end:]


@each_kind
@given(data=st.data())
def test_what_is_encoded_decodes_to_itself(kind: Kind, data: st.DataObject) -> None:
    """Nothing is lost or changed, for every valid value."""
    value = data.draw(kind.values)
    assert kind.decode(kind.encode(value)) == value


@each_kind
@given(data=st.data())
def test_the_encoding_is_the_documented_one(kind: Kind, data: st.DataObject) -> None:
    """Shortest headers, sorted maps, bin for bytes: another program that follows the document
    gives the same ids.
    """
    value = data.draw(kind.values)
    assert kind.encode(value) == canonical(plain(value))


@each_kind
@settings(max_examples=25)
@given(data=st.data())
def test_every_other_spelling_is_refused(kind: Kind, data: st.DataObject) -> None:
    """No longer integer or length, no float, no str for bin: one value has one id."""
    for spelling in respellings(kind.encode(data.draw(kind.values))):
        with pytest.raises(FormatError):
            kind.decode(spelling)


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` after one to three bytes or slices were changed, removed, inserted or repeated."""
    mutant = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(mutant)))
        end = min(len(mutant), start + draw(st.integers(0, 8)))
        new = draw(
            st.binary(min_size=1, max_size=4)
            | st.sampled_from([b"", b"\x90", b"\x80", b"\xc0", b"\xdd\xff\xff\xff\xff"])
            | st.just(bytes(mutant[start:end]) * 2)
        )
        mutant[start:end] = new
    return bytes(mutant)


@each_kind
@settings(max_examples=250)
@given(data=st.data())
def test_a_damaged_encoding_is_refused_or_is_another_values(
    kind: Kind, data: st.DataObject
) -> None:
    """Whatever decodes is the one encoding of what it decodes to; nothing is ignored."""
    mutant = data.draw(mutations(kind.encode(data.draw(kind.values))))
    try:
        value = kind.decode(mutant)
    except FormatError:
        return
    assert kind.encode(value) == mutant == canonical(plain(value))


@each_kind
def test_every_change_of_one_byte_is_refused_or_seen(kind: Kind) -> None:
    """No byte of an object is without meaning: no two encodings give equal values."""
    encoded = kind.encode(kind.sample)
    accepted = 0
    for position in range(len(encoded)):
        for bit in range(8):
            mutant = bytearray(encoded)
            mutant[position] ^= 1 << bit
            try:
                value = kind.decode(bytes(mutant))
            except FormatError:
                continue
            accepted += 1
            assert value != kind.sample
            assert kind.encode(value) == mutant
    assert 0 < accepted < 8 * len(encoded)


@each_kind
def test_every_truncation_and_every_addition_is_refused(kind: Kind) -> None:
    """An object ends where its encoding ends."""
    encoded = kind.encode(kind.sample)
    for length in range(len(encoded)):
        with pytest.raises(FormatError):
            kind.decode(encoded[:length])
    for tail in (b"\0", b"\xc0", encoded):
        with pytest.raises(FormatError):
            kind.decode(encoded + tail)


@each_kind
@given(noise=st.binary(max_size=200))
def test_noise_raises_nothing_but_our_own_error(kind: Kind, noise: bytes) -> None:
    """Random bytes, alone and after a valid beginning, which they may happen to complete."""
    encoded = kind.encode(kind.sample)
    for hostile in (noise, encoded[:8] + noise, encoded[: len(encoded) // 2] + noise):
        try:
            value = kind.decode(hostile)
        except FormatError:
            continue
        assert kind.encode(value) == hostile


_HUGE = [
    b"\xdd\xff\xff\xff\xff",  # array
    b"\xdf\xff\xff\xff\xff",  # map
    b"\xdb\xff\xff\xff\xff",  # str
    b"\xc6\xff\xff\xff\xff",  # bin
    b"\xc9\xff\xff\xff\xff\x01",  # ext
    b"\xdc\xff\xff",
    b"\xde\xff\xff",
]


def _peak(work: Callable[[], object]) -> int:
    """Bytes that Python had allocated at most while it did `work`."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each_kind
def test_a_claim_of_four_billion_allocates_nothing(kind: Kind) -> None:
    """A header that promises 2**32-1 elements or bytes, in place of any header, costs no memory."""
    encoded = kind.encode(kind.sample)
    hostile = [*_HUGE]
    for start, end, _, _ in tokens(encoded):
        hostile += [encoded[:start] + claim for claim in _HUGE]
        hostile += [encoded[:start] + claim + encoded[end:] for claim in _HUGE]

    def decode_all() -> None:
        for data in hostile:
            with pytest.raises(FormatError):
                kind.decode(data)

    assert _peak(decode_all) < 1 << 20


@each_kind
@pytest.mark.parametrize(
    "opener", [b"\x91", b"\x81", b"\x81\xa1a", b"\x92\x00", b"\x94\xa4tree\x01"]
)
def test_nesting_of_100000_is_refused(kind: Kind, opener: bytes) -> None:
    """In place of any value of the object: no recursion that deep, no crash."""
    encoded = kind.encode(kind.sample)
    bomb = opener * 100_000
    for start, end, _, _ in tokens(encoded):
        for hostile in (encoded[:start] + bomb, encoded[:start] + bomb + b"\xc0" + encoded[end:]):
            with pytest.raises(FormatError):
                kind.decode(hostile)


def test_unbounded_lists_are_refused_by_their_header() -> None:
    """A million attributes are refused before the first of them is made."""
    encoded = encode_tree(make_tree([make_file(b"a")]))
    before, after = encoded.split(b"\x90", 1)
    hostile = (
        before + b"\xdd" + struct.pack(">I", 1_000_000) + b"\x92\xa0\xc4\0" * 1_000_000 + after
    )

    def decode() -> None:
        with pytest.raises(FormatError):
            decode_tree(hostile)

    assert _peak(decode) < 1 << 20


def test_an_object_beyond_its_size_is_not_even_read() -> None:
    """The limit is on bytes, before decoding; encoding refuses what nobody could decode."""
    with pytest.raises(FormatError, match="exceeds"):
        decode_commit(bytes(MAX_COMMIT_SIZE + 1))
    text = "a" * MAX_COMMIT_SIZE
    with pytest.raises(FormatError, match="exceeds"):
        encode_commit(msgspec.structs.replace(SAMPLE_COMMIT, metadata={"key": text}))


def test_the_limit_itself_is_allowed() -> None:
    """`max_size` bytes are within bounds, one more is not."""
    data = encode_tree(SAMPLE_TREE)
    assert Codec(Tree, "tree", len(data)).decode(data) == SAMPLE_TREE
    with pytest.raises(FormatError, match="exceeds"):
        Codec(Tree, "tree", len(data) - 1).decode(data)


BAD_FIELDS: list[dict[str, Any]] = [
    {"sequence": 1 << 70},
    {"sequence": "1"},
    {"sequence": len},
    {"subject": "lone \udcff surrogate"},
    {"metadata": {"key": {"nested": "map"}}},
    {"metadata": {"key": 1.5}},
    {"metadata": {"key": None}},
    {"metadata": {"key": True}},
    {"metadata": {"key": b"bytes"}},
    {"metadata": {1: "a"}},
    {"parents": (b"short",)},
]


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=repr)
def test_a_value_that_could_not_be_decoded_is_not_encoded(fields: dict[str, Any]) -> None:
    """A committer hears of it at once, with the error that a reader would raise."""
    with pytest.raises(FormatError):
        encode_commit(msgspec.structs.replace(SAMPLE_COMMIT, **fields))


def test_a_value_that_holds_itself_is_not_encoded() -> None:
    """A cycle ends in an error, not in a crash."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(FormatError):
        encode_commit(msgspec.structs.replace(SAMPLE_COMMIT, metadata={"key": loop}))
