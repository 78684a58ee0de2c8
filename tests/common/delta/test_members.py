"""Compressed members: a layout is believed only within bounds, and files come back bit for bit."""

import gzip
import hashlib
import io
import lzma
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.common.delta.members.conformance import Known, conformance, conforms, probe
from hacktree.common.delta.members.detect import find_members
from hacktree.common.delta.members.engines import compress, decompress
from hacktree.common.delta.members.expansion import (
    common_layout_cost,
    expand,
    expansion_cost,
    rebuild,
)
from hacktree.common.delta.members.gnu_deflate import gnu_deflate
from hacktree.common.delta.members.layout import (
    MAX_WINDOW,
    Engine,
    Layout,
    Member,
    Recipe,
    check_parameters,
    decode_layout,
    encode_layout,
    expanded_length,
    file_length,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.zstandard import zstd

RECIPES = [
    (Engine.LZMA2, (6, 0, 1 << 20, 1)),
    (Engine.LZMA2, (1, 1, 3 << 16, 0)),
    (Engine.DEFLATE, (9, 8)),
    (Engine.DEFLATE, (1, 9)),
    (Engine.ZSTD, (3, 1, 1, 0)),
    (Engine.ZSTD, (5, 0, 0, 1)),
    (Engine.GNU_DEFLATE, (9,)),
    (Engine.GNU_DEFLATE, (1,)),
]


def _recipe(number: int) -> Recipe:
    engine, parameters = RECIPES[number]
    return Recipe(engine, parameters, b"12345678")


def _restored(data: bytes, layout: Layout) -> bytes:
    output = bytearray(len(data))
    rebuild(expand(data, layout, expanded_length(layout)), layout, memoryview(output))
    return bytes(output)


def _gnu(*arguments: str, data: bytes) -> bytes:
    return subprocess.run([*arguments], input=data, capture_output=True, check=True).stdout


def _raw(data: bytes) -> bytes:
    """The deflate stream in the output of `gzip -n`."""
    return data[10:-8]


def _kernel(payload: bytes) -> bytes:
    """A bzImage by the Linux boot protocol: 2 setup sectors, then the payload 256 bytes in."""
    head = bytearray(3 * 512 + 256)
    head[0x1F1] = 2
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 256, len(payload))
    return bytes(head) + payload + b"trailer" * 50


def _zip(**members: tuple[bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, (content, method) in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


# Layouts


def _layout_of(*members: Member, tail: int = 0, recipes: tuple[int, ...] = (2,)) -> Layout:
    return Layout(1, tuple(_recipe(number) for number in recipes), members, tail)


def test_a_layout_has_one_encoding() -> None:
    layout = _layout_of(Member(3, 0, 10, 5), Member(0, 1, 7, 8), tail=2, recipes=(2, 6))
    data = encode_layout(layout)
    assert decode_layout(data, 18, 22) == layout
    assert (file_length(layout), expanded_length(layout)) == (18, 22)
    assert common_layout_cost(layout) > 0
    assert expansion_cost(layout) > 0


@pytest.mark.parametrize(("size", "expanded"), [(17, 22), (19, 22), (18, 21)])
def test_a_layout_that_does_not_fit_its_file_is_refused(size: int, expanded: int) -> None:
    data = encode_layout(_layout_of(Member(3, 0, 10, 5), Member(0, 0, 7, 8), tail=2))
    with pytest.raises(FormatError):
        decode_layout(data, size, expanded)


_GOOD = [2, [9, 8], b"12345678"]


@pytest.mark.parametrize(
    "value",
    [
        ["members", 2, [_GOOD], [[0, 0, 1, 1]], 0],
        ["layout", 1, [_GOOD], [[0, 0, 1, 1]], 0],
        ["members", 1, [_GOOD], [], 1],
        ["members", 1, [], [[0, 0, 1, 1]], 0],
        ["members", 1, [_GOOD], [[0, 1, 1, 1]], 0],
        ["members", 1, [_GOOD, _GOOD], [[0, 0, 1, 1], [0, 1, 1, 1]], 0],
        ["members", 1, [_GOOD, [4, [9], b"12345678"]], [[0, 1, 1, 1], [0, 0, 1, 1]], 0],
        ["members", 1, [_GOOD, [4, [9], b"12345678"]], [[0, 0, 1, 1]], 0],
        ["members", 1, [_GOOD], [[-1, 0, 1, 2]], 0],
        ["members", 1, [_GOOD], [[0, 0, 0, 1]], 0],
        ["members", 1, [_GOOD], [[0, 0, 1, 0]], 1],
        ["members", 1, [_GOOD], [[0, 0, 2**63, 1]], 0],
        ["members", 1, [_GOOD], [[2**64 - 1, 0, 1, 1]], 1],
        ["members", 1, [_GOOD], [[0, 0, 1, 1]], 2**63],
        ["members", 1, [_GOOD], [[0, 0, 1, 1]], -1],
        ["members", 1, [_GOOD], [[0, 0, 1, 1, 0]], 0],
        ["members", 1, [[9, [], b"12345678"]], [[0, 0, 1, 1]], 0],
        ["members", 1, [[2, [0, 8], b"12345678"]], [[0, 0, 1, 1]], 0],
        ["members", 1, [[2, [9, 8, 0], b"12345678"]], [[0, 0, 1, 1]], 0],
        ["members", 1, [[2, [9, 8], b"1234567"]], [[0, 0, 1, 1]], 0],
        ["members", 1, [[1, [6, 0, 5000, 0], b"12345678"]], [[0, 0, 1, 1]], 0],
        ["members", 1, [[1, [6, 0, 256 << 20, 0], b"12345678"]], [[0, 0, 1, 1]], 0],
        ["members", 1, [_GOOD] * 65, [[0, 0, 1, 1]], 0],
        ["members", 1, [_GOOD], [[0, 0, 1, 1]] * 65_537, 0],
        "members",
        [],
    ],
)
def test_a_malformed_layout_is_refused(value: object) -> None:
    for size in (1, 2):
        with pytest.raises(FormatError):
            decode_layout(msgspec.msgpack.encode(value), size, 1 << 40)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_layout(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_layout(data, 100, 1000)


@pytest.mark.parametrize(
    ("engine", "parameters"),
    [
        (Engine.LZMA2, (10, 0, 1 << 20, 0)),
        (Engine.LZMA2, (6, 2, 1 << 20, 0)),
        (Engine.LZMA2, (6, 0, 1 << 20, 2)),
        (Engine.LZMA2, (6, 0, 2048, 0)),
        (Engine.LZMA2, (6, 0, 2 * MAX_WINDOW, 0)),
        (Engine.DEFLATE, (9, 7)),
        (Engine.DEFLATE, (10, 8)),
        (Engine.ZSTD, (23, 0, 0, 0)),
        (Engine.ZSTD, (0, 0, 0, 0)),
        (Engine.ZSTD, (3, 0, 0, 2)),
        (Engine.GNU_DEFLATE, (0,)),
        (Engine.GNU_DEFLATE, ()),
    ],
)
def test_parameters_are_white_listed(engine: Engine, parameters: tuple[int, ...]) -> None:
    for attempt in (
        lambda: check_parameters(engine, parameters),
        lambda: compress(engine, parameters, b"content"),
        lambda: decompress(engine, parameters, b"member", 10),
    ):
        with pytest.raises(FormatError):
            attempt()


# Engines


@pytest.mark.parametrize(("engine", "parameters"), RECIPES)
@pytest.mark.parametrize("size", [1, 3, 100, 70_000, 256 << 10])
def test_each_engine_gives_its_content_back(
    engine: Engine, parameters: tuple[int, ...], size: int
) -> None:
    content = probe()[:size]
    member = compress(engine, parameters, memoryview(content))
    assert decompress(engine, parameters, memoryview(member), size) == content
    if size > 1:
        with pytest.raises(FormatError):
            decompress(engine, parameters, member, size - 1)
    for damaged in (member[:-1], member + b"\0", member[: len(member) // 2], b""):
        with pytest.raises(FormatError):
            decompress(engine, parameters, damaged, size)


@pytest.mark.parametrize(("engine", "parameters"), RECIPES)
@given(data=st.binary(max_size=300))
@settings(max_examples=40)
def test_a_damaged_member_is_a_format_error(
    engine: Engine, parameters: tuple[int, ...], data: bytes
) -> None:
    try:
        content = decompress(engine, parameters, data, 1000)
    except FormatError:
        return
    assert len(content) <= 1000


@pytest.mark.parametrize(("engine", "parameters"), RECIPES)
def test_a_bomb_ends_at_the_bound(engine: Engine, parameters: tuple[int, ...]) -> None:
    if engine is Engine.GNU_DEFLATE:
        bomb = compress(Engine.DEFLATE, (9, 8), bytes(16 << 20))
    else:
        bomb = compress(engine, parameters, bytes(16 << 20))
    layout = Layout(1, (Recipe(engine, parameters, b"12345678"),), (Member(0, 0, 9, len(bomb)),), 0)
    with pytest.raises(FormatError):
        expand(bomb, layout, 1000)


@pytest.mark.parametrize("level", range(1, 10))
def test_gzips_own_deflate_is_made_bit_for_bit(level: int) -> None:
    for content in (
        probe(),
        probe()[:50_000] + probe()[:9],
        b"abc" * 5000,
        b"x" * 300_000,
        b"a",
        b"",
    ):
        expected = _raw(_gnu("gzip", "-n", f"-{level}", data=content))
        assert gnu_deflate(content, level) == expected


@given(
    st.binary(max_size=400).map(
        lambda noise: noise + bytes(noise[i % 7] for i in noise if len(noise) > 7)
    )
)
@settings(max_examples=60)
def test_gzips_own_deflate_is_deflate(content: bytes) -> None:
    try:
        made = gnu_deflate(content, 9)
    except FormatError:
        return
    assert zlib.decompress(made, -15) == content


def test_gzips_deflate_of_what_does_not_compress_is_refused() -> None:
    with pytest.raises(FormatError):
        gnu_deflate(hashlib.shake_256(b"noise").digest(100_000), 9)


# Conformance


def test_the_conformance_input_is_frozen() -> None:
    assert hashlib.sha256(probe()).hexdigest() == (
        "7318557fd53e9477c373281c2d27d8fffbdd50f6c2e1d739670f293ff7cad827"
    )


def test_conformance_tells_levels_apart() -> None:
    values = {conformance(engine, parameters) for engine, parameters in RECIPES}
    values |= {conformance(Engine.DEFLATE, (level, 8)) for level in range(1, 9)}
    values |= {conformance(Engine.GNU_DEFLATE, (level,)) for level in range(2, 9)}
    assert len(values) == len(RECIPES) + 8 + 7


def test_a_machine_that_compresses_differently_does_not_conform() -> None:
    engine, parameters = RECIPES[2]
    right = Recipe(engine, parameters, conformance(engine, parameters))
    wrong = Recipe(engine, parameters, b"12345678")
    known: Known = {}
    assert conforms([right], known)
    assert not conforms([right, wrong], known)
    assert sorted(known.values()) == [False, True]
    assert not conforms([right], dict.fromkeys(known, False))


# Finding members


def _streams() -> dict[str, tuple[bytes, Engine]]:
    content = probe()[:150_000]
    x86: list[dict[str, int]] = [
        {"id": lzma.FILTER_X86},
        {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20},
    ]
    kernel = lzma.compress(content, check=lzma.CHECK_CRC32, filters=x86)
    return {
        "gzip": (_gnu("gzip", "-9", data=content), Engine.GNU_DEFLATE),
        "small gzip": (_gnu("gzip", "-9", data=content[:9000]), Engine.DEFLATE),
        "gzip -1": (_gnu("gzip", "-1n", data=content), Engine.GNU_DEFLATE),
        "zlib's gzip": (gzip.compress(content, 6), Engine.DEFLATE),
        "xz": (lzma.compress(content), Engine.LZMA2),
        "xz -1": (lzma.compress(content, preset=1), Engine.LZMA2),
        "xz without check": (lzma.compress(content, check=lzma.CHECK_NONE), Engine.LZMA2),
        "xz and padding": (lzma.compress(content) + bytes(8), Engine.LZMA2),
        "kernel": (_kernel(kernel + b"size"), Engine.LZMA2),
        "kernel with gzip": (_kernel(_gnu("gzip", "-9", data=content)), Engine.GNU_DEFLATE),
        "kernel with zstd": (_kernel(zstd.compress(content, 19)), Engine.ZSTD),
        "zstd": (zstd.compress(content, 3), Engine.ZSTD),
        "zip": (
            _zip(a=(content, zipfile.ZIP_DEFLATED), b=(content[:99], zipfile.ZIP_STORED)),
            Engine.DEFLATE,
        ),
    }


@pytest.mark.parametrize("name", list(_streams()))
def test_members_are_found_and_come_back_exactly(name: str) -> None:
    data, engine = _streams()[name]
    layout = find_members(data)
    assert layout is not None
    assert {recipe.engine for recipe in layout.recipes} == {engine}
    assert conforms(layout.recipes, {})
    assert decode_layout(encode_layout(layout), len(data), 1 << 30) == layout
    assert expand(data, layout, 1 << 30).startswith(probe()[:9000])
    assert _restored(data, layout) == data


def test_every_deflated_member_of_an_archive_is_found() -> None:
    members = {f"m{i}": (probe()[i : i + 2000], zipfile.ZIP_DEFLATED) for i in range(40)}
    layout = find_members(_zip(**members))
    assert layout is not None
    assert len(layout.members) == 40
    assert len(layout.recipes) == 1


def test_one_damaged_member_does_not_hide_the_others() -> None:
    members = {f"m{i}": (probe()[i : i + 2000], zipfile.ZIP_DEFLATED) for i in range(3)}
    data = bytearray(_zip(**members))
    data[data.index(b"m1") + 2] = 0xFF
    layout = find_members(bytes(data))
    assert layout is not None
    assert len(layout.members) == 2
    assert _restored(bytes(data), layout) == data


def _cut_by_hand(content: bytes) -> bytes:
    """Deflate blocks as no known program cuts them."""
    encoder = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [encoder.compress(content[:100]), encoder.flush(zlib.Z_FULL_FLUSH)]
    return b"".join([*parts, encoder.compress(content[100:]), encoder.flush()])


@pytest.mark.parametrize(
    "make",
    [
        _cut_by_hand,
        lambda content: gzip.compress(content, 0),
        lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
        lambda content: lzma.compress(
            content, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0}]
        ),
        lambda content: lzma.compress(
            content, filters=[{"id": lzma.FILTER_DELTA, "dist": 4}, {"id": lzma.FILTER_LZMA2}]
        ),
        lambda content: content,
    ],
)
def test_what_can_not_be_made_again_has_no_members(make: Callable[[bytes], bytes]) -> None:
    assert find_members(make(probe()[:20_000])) is None


def test_the_search_ends_when_its_work_is_spent() -> None:
    data = lzma.compress(probe())
    assert find_members(data, 1000) is None
    assert find_members(data) is not None


@pytest.mark.parametrize("name", list(_streams()))
def test_a_truncated_file_is_no_error(name: str) -> None:
    data, _ = _streams()[name]
    for end in (*range(40), 0x210, 0x250, 1800, len(data) // 2, len(data) - 3, len(data) - 1):
        layout = find_members(data[:end], 50_000)
        assert layout is None or file_length(layout) == len(data[:end])


@given(
    st.sampled_from([b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\3\4"]), st.binary()
)
def test_arbitrary_bytes_behind_a_magic_are_no_error(magic: bytes, rest: bytes) -> None:
    layout = find_members(magic + rest, 100_000)
    assert layout is None or _restored(magic + rest, layout) == magic + rest


# Expanding and rebuilding

_pieces = st.lists(
    st.tuples(
        st.binary(max_size=40),
        st.integers(0, len(RECIPES) - 1),
        st.binary(min_size=1, max_size=600),
    ),
    min_size=1,
    max_size=6,
)


def _build(pieces: list[tuple[bytes, int, bytes]], tail: bytes) -> tuple[bytes, Layout]:
    numbers: dict[int, int] = {}
    data, members = b"", []
    for literal, number, content in pieces:
        engine, parameters = RECIPES[number]
        if engine is Engine.GNU_DEFLATE:
            content = content[:1] * 600
        member = compress(engine, parameters, content)
        index = numbers.setdefault(number, len(numbers))
        members.append(Member(len(literal), index, len(content), len(member)))
        data += literal + member
    recipes = tuple(_recipe(number) for number in numbers)
    return data + tail, Layout(1, recipes, tuple(members), len(tail))


@given(_pieces, st.binary(max_size=40))
@settings(max_examples=60)
def test_any_file_comes_back_from_its_expanded_form(
    pieces: list[tuple[bytes, int, bytes]], tail: bytes
) -> None:
    data, layout = _build(pieces, tail)
    expanded = expand(data, layout, expanded_length(layout))
    assert expanded.endswith(b"".join(literal for literal, _, _ in pieces) + tail)
    assert _restored(data, layout) == data


def test_expanding_is_bounded() -> None:
    data, layout = _build([(b"head", 2, probe()[:5000])], b"tail")
    size = expanded_length(layout)
    assert len(expand(data, layout, size)) == size
    with pytest.raises(FormatError):
        expand(data, layout, size - 1)
    with pytest.raises(FormatError):
        expand(data[:-1], layout, size)
    longer = msgspec.structs.replace(layout.members[0], content=5001)
    with pytest.raises(FormatError):
        expand(data, msgspec.structs.replace(layout, members=(longer,)), size + 1)


def test_rebuilding_needs_exact_lengths() -> None:
    data, layout = _build([(b"head", 2, probe()[:5000])], b"tail")
    expanded = expand(data, layout, 1 << 20)
    with pytest.raises(FormatError):
        rebuild(expanded[:-1], layout, memoryview(bytearray(len(data))))
    with pytest.raises(FormatError):
        rebuild(expanded, layout, memoryview(bytearray(len(data) + 1)))
    other = probe()[9:5009] + expanded[5000:]
    with pytest.raises(FormatError):
        rebuild(other, layout, memoryview(bytearray(len(data))))
