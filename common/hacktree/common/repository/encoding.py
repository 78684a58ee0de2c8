"""Encoding one object: the only place that decides which of the codec's entries are made."""

from dataclasses import dataclass
from typing import Final

from hacktree.common.delta.codec import encode_delta, estimate
from hacktree.common.delta.entry import EncodedEntry, encode_full
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.zstandard import compress

_WORTH: Final = 0.95
"""A delta must be this much smaller than the object as a whole."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An entry, and the bytes that it will take in a frame, about."""

    entry: EncodedEntry
    estimate: int


def encode_whole(new: bytes) -> Chosen:
    """The object as it is."""
    return Chosen(encode_full(new), len(compress(new, 6)))


def encode_best(old: bytes, new: bytes, shared: Shared) -> Chosen:
    """The cheapest entry for `new` by bytes and decoding time: a delta against `old`, or whole."""
    entry = encode_delta(old, new, shared)
    size = estimate(entry)
    whole = len(compress(new, 6))
    return Chosen(entry, size) if size <= _WORTH * whole else Chosen(encode_full(new), whole)
