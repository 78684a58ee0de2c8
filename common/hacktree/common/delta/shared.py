"""What all entries of one pack share besides the dictionary. docs/format.md, "Shared maps"."""

from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from hacktree.common.delta.btf import NumberMap, TypeMap
from hacktree.common.delta.varint import decode_varints, encode_varints, unzigzag, zigzag
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError

MAX_SHARED: Final = 4 << 20
"""Bytes of the encoded maps."""

_MAX_RUNS: Final = 1 << 20


def _no_map() -> NumberMap:
    return NumberMap(np.zeros(0, np.int64), np.zeros(0, np.int64))


class Shared(msgspec.Struct, frozen=True):
    """Pack-wide maps: where the numbers of a rebuilt kernel's types and strings went."""

    types: TypeMap = msgspec.field(default_factory=lambda: TypeMap(_no_map(), _no_map()))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to store."""
        return len(self.types.types.start) + len(self.types.strings.start) == 0

    def encode(self) -> bytes:
        """The bytes for the pack's head; none for empty maps."""
        if self.is_empty:
            return b""
        return _CODEC.encode(_Shared(1, _wire(self.types.types), _wire(self.types.strings)))

    @classmethod
    def decode(cls, data: bytes) -> "Shared":
        """The inverse of `encode`; raises `FormatError`."""
        if not data:
            return cls()
        wire = _CODEC.decode(data)
        return cls(TypeMap(_read(wire.types), _read(wire.strings)))


class _Map(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=0, le=_MAX_RUNS)]
    starts: bytes
    shifts: bytes


class _Shared(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="maps"):
    version: Literal[1]
    types: _Map
    strings: _Map


_CODEC = Codec(_Shared, "set of shared maps", MAX_SHARED)


def _wire(numbers: NumberMap) -> _Map:
    starts = encode_varints(np.diff(numbers.start, prepend=0).astype(np.uint64))
    return _Map(
        len(numbers.start), starts, encode_varints(zigzag(np.diff(numbers.shift, prepend=0)))
    )


def _read(wire: _Map) -> NumberMap:
    steps = decode_varints(wire.starts, wire.count)
    shifts = unzigzag(decode_varints(wire.shifts, wire.count))
    limit = 1 << 32
    if wire.count and (int(steps.max()) > limit or np.any(steps[1:] == 0)):
        raise FormatError("a map of numbers is not in order")
    if wire.count and (int(shifts.max()) > 2 * limit or int(shifts.min()) < -2 * limit):
        raise FormatError("a map moves numbers out of range")
    return NumberMap(np.cumsum(steps.view(np.int64)), np.cumsum(shifts))
