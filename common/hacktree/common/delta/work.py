"""What bringing something takes: bytes, requests, decoding. What that costs: `route.py`."""

from typing import Final

import msgspec

_WHOLE_RATIO: Final = 0.4
"""Bytes of an object in transfer for each byte of its content, where only that is known."""
_WHOLE_SPEED: Final = 200
"""Bytes a microsecond at which whole objects are decompressed, hashed and written."""


class Work(msgspec.Struct, frozen=True):
    """What has to be done: bytes to transfer, requests to make, microseconds of one core."""

    bytes: int
    requests: int
    decode_us: int

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.bytes + other.bytes,
            self.requests + other.requests,
            self.decode_us + other.decode_us,
        )


def estimate_whole(size: int) -> Work:
    """What fetching an object of `size` bytes by itself takes, before anything else is known."""
    return Work(int(size * _WHOLE_RATIO), 1, size // _WHOLE_SPEED)
