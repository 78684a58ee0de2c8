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

import numpy as np

from hacktree.common.delta.members.engines import compress
from hacktree.common.delta.members.layout import CONFORMANCE_LENGTH, Engine, Recipe
from hacktree.common.objects.zstandard import zstd

_INPUT_LENGTH: Final = 256 << 10
_WORDS: Final = 4096

REFERENCE: Final = (
    Recipe(Engine.LZMA2, (6, 0, 32 << 20, 1), bytes.fromhex("f1eba829478d76d5")),
    Recipe(Engine.DEFLATE, (6, 8), bytes.fromhex("03ab74a882f8cb83")),
    Recipe(Engine.GNU_DEFLATE, (9,), bytes.fromhex("083a6bb1d1994459")),
    Recipe(Engine.ZSTD, (19, 1, 1, 1), bytes.fromhex("e6bf257521c4aa6a")),
)
"""What liblzma 5.4, zlib 1.2.13 and libzstd 1.5.7 make: the compressors that trees are made with.

A machine that differs in one of them does not ask for recompressed members at all.
"""

Known = MutableMapping[str, bool]
"""What was found, by library version and recipe; the caller may keep it."""


@cache
def test_input() -> bytes:
    """256 KiB that compress to about half: words of a fixed vocabulary in a fixed order."""
    digests = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(_WORDS))
    words = np.frombuffer(digests, np.uint8).reshape(_WORDS, 32)
    order = np.arange(_INPUT_LENGTH // 8, dtype=np.uint64)
    order = (order * order * np.uint64(2654435761) >> np.uint64(7)) % np.uint64(_WORDS)
    return words[order.astype(np.int64), :8].tobytes()


def conformance(engine: Engine, parameters: tuple[int, ...]) -> bytes:
    """What a recipe carries: the first bytes of the sha256 of the compressed test input."""
    return hashlib.sha256(compress(engine, parameters, test_input())).digest()[:CONFORMANCE_LENGTH]


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
