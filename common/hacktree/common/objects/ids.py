"""Object ids: the sha256 of an object's bytes."""

import hashlib
import re
from typing import Annotated, Final, NewType

from msgspec import Meta

from hacktree.common.objects.errors import NameInvalidError

ID_LENGTH: Final = 32
"""Bytes in an object id."""

ObjectId = NewType("ObjectId", bytes)
"""32 raw bytes; written as 64 lower-case hexadecimal digits for people and in file names."""

WireObjectId = Annotated[ObjectId, Meta(min_length=ID_LENGTH, max_length=ID_LENGTH)]
"""An object id as a field of an encoded object; the decoder enforces the length."""

_HEX = re.compile(r"[0-9a-f]{64}")


def hash_bytes(data: bytes | memoryview) -> ObjectId:
    """The id of an object whose bytes are `data`."""
    return ObjectId(hashlib.sha256(data).digest())


EMPTY_FILE_ID: Final = hash_bytes(b"")


def parse_object_id(text: str) -> ObjectId:
    """The id written as 64 lower-case hexadecimal digits; raises `NameInvalidError`."""
    if not _HEX.fullmatch(text):
        raise NameInvalidError(f"not an object id (64 hexadecimal digits): {text[:80]!r}")
    return ObjectId(bytes.fromhex(text))
