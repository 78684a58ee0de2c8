"""Whether this machine's compressors make what the encoder's made.

Other builds of a library compress differently. A recipe carries the hash of what the encoder's made
of a test input; who decodes makes it too and compares, before it relies on the recipe.
"""

import hashlib
import lzma
import sys
import zlib
from collections.abc import Iterable, MutableMapping
from functools import cache
from typing import Final

from hacktree.common.delta.members.engines import compress
from hacktree.common.delta.members.layout import CONFORMANCE_LENGTH, Engine, Recipe
from hacktree.common.objects.zstandard import zstd

_INPUT_LENGTH: Final = 256 << 10
_NOISE_LENGTH: Final = 80_000
"""Enough for the steps that make so much."""

REFERENCE: Final = (
    Recipe(Engine.LZMA2, (6, 0, 32 << 20, 1), bytes.fromhex("c8b7260ebb396b1c")),
    Recipe(Engine.DEFLATE, (6, 8), bytes.fromhex("22f4a77358704e9a")),
    Recipe(Engine.GNU_DEFLATE, (9,), bytes.fromhex("1101636a23f728ac")),
    Recipe(Engine.ZSTD, (19, 1, 1, 1), bytes.fromhex("8a567735393a6072")),
)
"""What liblzma 5.4, zlib 1.2.13 and libzstd 1.5.7 make: the compressors that trees are made with.

A machine that differs in one of them does not ask for recompressed members at all.
"""

Known = MutableMapping[str, bool]
"""What was found, by library version and recipe; the caller may keep it."""


@cache
def probe() -> bytes:
    """256 KiB that tell compressors and their levels apart: part of the format.

    Drawn from SHAKE-256 in steps of 8 bytes: a copy of what stands before, many short and few long,
    near and far, so that searches differ in what they find; then letters or an x86 call.
    """
    noise = hashlib.shake_256(b"hacktree members 1").digest(_NOISE_LENGTH)
    data = bytearray(b"hacktree")
    for step in range(0, _NOISE_LENGTH, 8):
        far, near, length, kind, *fresh = noise[step : step + 8]
        reach = (far << 8 | near) * (1 + far) >> (4 if kind & 8 else 9)
        start = len(data) - 1 - min(reach, len(data) - 1)
        data += data[start : start + 2 + (length * length >> (9 if kind & 16 else 12))]
        if kind & 7 == 0:
            data += b"\xe8" + bytes(fresh[:3]) + b"\0"
        else:
            data += bytes(97 + (letter & 15) for letter in fresh[: kind & 3])
    return bytes(data[:_INPUT_LENGTH])


def conformance(engine: Engine, parameters: tuple[int, ...]) -> bytes:
    """What a recipe carries: the first bytes of the sha256 of the compressed test input."""
    return hashlib.sha256(compress(engine, parameters, probe())).digest()[:CONFORMANCE_LENGTH]


def library_version(engine: Engine) -> str:
    """The library behind an engine; when it changes, everything is tested anew."""
    if engine is Engine.ZSTD:
        return f"zstd {zstd.zstd_version}"
    if engine is Engine.LZMA2:
        # liblzma tells Python no version: the file that was loaded stands for it.
        return f"lzma {sys.version} {getattr(lzma, '__file__', '')}"
    return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"


def conforms(recipes: Iterable[Recipe], known: Known) -> bool:
    """Whether this machine passes all of them; what is not in `known` is tested and put there."""
    for recipe in recipes:
        key = f"{library_version(recipe.engine)}/{recipe.engine}/{recipe.parameters}"
        key += f"/{recipe.conformance.hex()}"
        if key not in known:
            known[key] = conformance(recipe.engine, recipe.parameters) == recipe.conformance
        if not known[key]:
            return False
    return True
