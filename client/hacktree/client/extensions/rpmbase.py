"""Writing hacktree-base: an RPM file without files, which provides what a build provides.

Written here instead of by rpmbuild: that takes ten times as long, is another package on testers'
machines, and follows the macros of whatever system they have (docs/adr/0024-extensions.md).
"""

import gzip
import hashlib
import struct
from collections.abc import Mapping
from typing import Final

from hacktree.client.extensions.rpmfile import LEAD, LEAD_MAGIC
from hacktree.client.extensions.rpmheader import (
    BINARY,
    ENTRY,
    HEADER_MAGIC,
    INT32,
    SIZES,
    STRING,
    STRINGS,
    TRANSLATED,
)

NAME: Final = "hacktree-base"

_REGION_SIGNATURES: Final = 62
_REGION_IMMUTABLE: Final = 63
_SIGNATURE_LEAD: Final = 5
_EQUAL: Final = 8
_SHA256: Final = 8
_TRAILER: Final = (
    b"070701" + b"0" * 40 + b"00000001" + b"0" * 40 + b"0000000b" + b"0" * 8 + b"TRAILER!!!\0\0\0\0"
)
"""An empty cpio archive."""

_Value = tuple[int, int, list[int] | list[str]]
"""Tag, type, values."""


def make_base(release: str, provides: Mapping[str, str]) -> bytes:
    """The RPM file: `provides` maps names to versions or ""; `release` is of [a-z0-9]."""
    names = sorted({**provides, NAME: ""})
    versions = [provides.get(name, "") if name != NAME else f"0-{release}" for name in names]
    payload = gzip.compress(_TRAILER, mtime=0)
    values: list[_Value] = [
        (100, STRINGS, ["C"]),
        (1000, STRING, [NAME]),
        (1001, STRING, ["0"]),
        (1002, STRING, [release]),
        (1004, TRANSLATED, ["What the build under the extensions provides"]),
        (1005, TRANSLATED, ["Made by hacktree; it has no files."]),
        (1009, INT32, [0]),
        (1014, STRING, ["none"]),
        (1016, TRANSLATED, ["Unspecified"]),
        (1021, STRING, ["linux"]),
        (1022, STRING, ["noarch"]),
        (1044, STRING, [f"{NAME}-0-{release}.src.rpm"]),
        (1047, STRINGS, names),
        (1064, STRING, ["4.18"]),
        (1112, INT32, [_EQUAL if version else 0 for version in versions]),
        (1113, STRINGS, versions),
        (1124, STRING, ["cpio"]),
        (1125, STRING, ["gzip"]),
        (1126, STRING, ["9"]),
        (5092, STRINGS, [hashlib.sha256(payload).hexdigest()]),
        (5093, INT32, [_SHA256]),
    ]
    header = _header(_REGION_IMMUTABLE, values)
    signature = _header(
        _REGION_SIGNATURES,
        [
            (273, STRING, [hashlib.sha256(header).hexdigest()]),
            (1000, INT32, [len(header) + len(payload)]),
        ],
    )
    lead = LEAD.pack(
        LEAD_MAGIC, 3, 0, 0, 1, f"{NAME}-0-{release}".encode()[:65], 1, _SIGNATURE_LEAD, bytes(16)
    )
    return b"".join((lead, signature, bytes(-len(signature) % 8), header, payload))


def _header(region: int, values: list[_Value]) -> bytes:
    """A header whose entries are all in its region: an entry before them, a trailer in the data."""
    index, data = [], bytearray()
    for tag, kind, items in values:
        if kind == INT32:
            data += bytes(-len(data) % 4)
        index.append(ENTRY.pack(tag, kind, len(data), len(items)))
        for item in items:
            data += struct.pack(">I", item) if isinstance(item, int) else item.encode() + b"\0"
    first = ENTRY.pack(region, BINARY, len(data), ENTRY.size)
    length = (len(index) + 1) * ENTRY.size
    data += struct.pack(">IIiI", region, BINARY, -length, ENTRY.size)
    return HEADER_MAGIC + SIZES.pack(len(index) + 1, len(data)) + first + b"".join(index) + data
