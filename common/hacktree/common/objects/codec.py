"""Canonical msgpack: one encoding per value, decoders that refuse every other.

msgspec decodes strictly typed arrays in C, but no msgpack decoder rejects a longer-than-needed
integer or an unsorted map. So every decode is followed by an encode that must give the same bytes.
"""

from typing import Generic, TypeVar

import msgspec

from hacktree.common.objects.errors import FormatError

T = TypeVar("T", bound=msgspec.Struct)


class Codec(Generic[T]):
    """Encodes and decodes one kind of struct, up to `max_size` bytes; errors are `FormatError`."""

    def __init__(self, kind: type[T], name: str, max_size: int) -> None:
        self._name = name
        self.max_size = max_size
        self._encoder = msgspec.msgpack.Encoder(order="deterministic")
        self._decoder = msgspec.msgpack.Decoder(kind)

    def encode(self, value: T) -> bytes:
        """The one encoding of `value`; a value that could not be decoded again is refused."""
        data = self._encode(value)
        self.decode(data)
        return data

    def decode(self, data: bytes) -> T:
        """The value that `data` encodes; `encode(decode(data)) == data` holds or it raises."""
        if len(data) > self.max_size:
            raise FormatError(f"{self._name} of {len(data)} bytes exceeds {self.max_size}")
        try:
            value = self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise FormatError(f"not a {self._name}: {error}") from error
        if self._encode(value) != data:
            raise FormatError(f"not the canonical encoding of a {self._name}")
        return value

    def _encode(self, value: T) -> bytes:
        try:
            return self._encoder.encode(value)
        except (
            msgspec.MsgspecError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise FormatError(f"a value no {self._name} can hold: {error}") from error
