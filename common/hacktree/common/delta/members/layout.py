"""The layout of a file that holds compressed members. docs/format.md, "Members".

A file is literal, member, literal, member, …, literal, where literals may be empty. Its *expanded
form* is the contents of all members, then all literals: an executable inside a kernel image stands
at offset 0, where deltas that know ELF look for it.
"""

import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.tree import MAX_FILE_SIZE

MAX_MEMBERS: Final = 65_536
MAX_RECIPES: Final = 64
MAX_LAYOUT_SIZE: Final = 2 << 20
"""Bytes of one encoded layout: what 65,536 members of less than 4 GiB need, and some."""

CONFORMANCE_LENGTH: Final = 8
MAX_WINDOW: Final = 128 << 20
"""Bytes of history that any engine may look back on."""


class Engine(enum.IntEnum):
    """What compresses a member, and what its parameters are."""

    LZMA2 = 1
    """One raw LZMA2 stream as in .xz: preset 0 to 9, extreme 0/1, dictionary bytes, x86 0/1."""
    DEFLATE = 2
    """One raw deflate stream by zlib: level 1 to 9, memLevel 8/9."""
    ZSTD = 3
    """One zstd frame: level 1 to 22, checksum 0/1, content size 0/1, multithreaded 0/1."""
    GNU_DEFLATE = 4
    """One raw deflate stream by gzip(1) or zip(1), which cut blocks unlike zlib: level 1 to 9."""


class Recipe(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An engine with its parameters, and what they make of the conformance test's input."""

    engine: Engine
    parameters: Annotated[tuple[Annotated[int, Meta(ge=0, le=MAX_WINDOW)], ...], Meta(max_length=4)]
    conformance: Annotated[
        bytes, Meta(min_length=CONFORMANCE_LENGTH, max_length=CONFORMANCE_LENGTH)
    ]

    def __post_init__(self) -> None:
        check_parameters(self.engine, self.parameters)


class Member(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One member: literal bytes before it, its recipe, bytes of content, and compressed."""

    gap: Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE)]
    recipe: Annotated[int, Meta(ge=0, lt=MAX_RECIPES)]
    content: Annotated[int, Meta(ge=1, le=MAX_FILE_SIZE)]
    compressed: Annotated[int, Meta(ge=1, le=MAX_FILE_SIZE)]


class Layout(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="members"
):
    """At least one member in the order of the file, and the literal bytes after the last.

    Recipes are distinct, each is used, and they stand in the order of first use.
    """

    version: Literal[1]
    recipes: Annotated[tuple[Recipe, ...], Meta(min_length=1, max_length=MAX_RECIPES)]
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MAX_MEMBERS)]
    tail: Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE)]

    def __post_init__(self) -> None:
        used = list(dict.fromkeys(member.recipe for member in self.members))
        if used != list(range(len(self.recipes))):
            raise FormatError(
                "the recipes of a layout do not stand in the order of their first use"
            )
        if len(set(self.recipes)) != len(self.recipes):
            raise FormatError("a layout holds the same recipe twice")


_CODEC = Codec(Layout, "layout of members", MAX_LAYOUT_SIZE)


def encode_layout(layout: Layout) -> bytes:
    """The canonical encoding; raises `FormatError` for a value that is out of bounds."""
    return _CODEC.encode(layout)


def decode_layout(data: bytes, file_size: int, max_expanded: int) -> Layout:
    """The layout of a file of exactly `file_size` bytes, at most `max_expanded` when expanded.

    Raises `FormatError` for any other, and for anything but the one encoding of a layout.
    """
    layout = _CODEC.decode(data)
    if file_length(layout) != file_size:
        raise FormatError(f"a layout of {file_length(layout)} bytes for a file of {file_size}")
    if expanded_length(layout) > max_expanded:
        raise FormatError(f"a layout expands to {expanded_length(layout)} bytes: {max_expanded=}")
    return layout


def literal_length(layout: Layout) -> int:
    """Bytes of the file that no member covers."""
    return layout.tail + sum(member.gap for member in layout.members)


def file_length(layout: Layout) -> int:
    """Bytes of the file as it is."""
    return literal_length(layout) + sum(member.compressed for member in layout.members)


def expanded_length(layout: Layout) -> int:
    """Bytes of the expanded form: the contents of all members, and the literals."""
    return literal_length(layout) + sum(member.content for member in layout.members)


def _valid_lzma2(preset: int, extreme: int, dictionary: int, x86: int) -> bool:
    # An .xz block's header can only say 2^n and 3·2^(n-1).
    sizes = {m << n for n in range(11, 27) for m in (2, 3)}
    in_range = preset <= 9 and extreme <= 1 and x86 <= 1
    return in_range and 4096 <= dictionary <= MAX_WINDOW and dictionary in sizes


def _valid_deflate(level: int, memory_level: int) -> bool:
    return 1 <= level <= 9 and memory_level in (8, 9)


def _valid_zstd(level: int, checksum: int, content_size: int, multithreaded: int) -> bool:
    return 1 <= level <= 22 and max(checksum, content_size, multithreaded) <= 1


def _valid_gnu_deflate(level: int) -> bool:
    return 1 <= level <= 9


_RULES: Final[Mapping[Engine, tuple[int, Callable[..., bool]]]] = {
    Engine.LZMA2: (4, _valid_lzma2),
    Engine.DEFLATE: (2, _valid_deflate),
    Engine.ZSTD: (4, _valid_zstd),
    Engine.GNU_DEFLATE: (1, _valid_gnu_deflate),
}


def check_parameters(engine: Engine, parameters: tuple[int, ...]) -> None:
    """Raise `FormatError` for parameters that are not on the engine's white list."""
    count, valid = _RULES[engine]
    if len(parameters) != count or not valid(*parameters):
        raise FormatError(f"parameters {parameters} are unknown to the engine {engine.name}")
