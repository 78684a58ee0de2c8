"""Sections that follow from the rest of the new file, and need not be sent.

`.eh_frame_hdr` is a table of `.eh_frame`, sorted by address. (`.hash` and `.gnu.hash` need no
such rule: their symbol numbers are references, see `tables`, and follow when symbols are added.)
Format: LSB Core, "Exception Frames".
"""

from typing import Final

import numpy as np

from hacktree.common.delta.elf import U8, Elf, Section
from hacktree.common.delta.varint import I64

_PREFIX: Final = 12
"""Bytes of .eh_frame_hdr before its table: encodings, the address of .eh_frame, the count."""

_ENCODINGS: Final = b"\x01\x1b\x03\x3b"
"""Version 1; pointers relative to themselves, a count, entries relative to the header; 4 bytes."""


def unwind_table(elf: Elf) -> Section | None:
    """The .eh_frame_hdr of the file if it is of the common form."""
    header, frames = elf.section(b".eh_frame_hdr"), elf.section(b".eh_frame")
    if header is None or frames is None or header.end - header.offset < _PREFIX:
        return None
    if elf.bytes_of(header)[:4].tobytes() != _ENCODINGS:
        return None
    return header


def clear_unwind_table(data: U8, elf: Elf) -> None:
    """Zero the table in place; its size and what stands before it stay."""
    header = unwind_table(elf)
    if header is not None:
        data[header.offset + _PREFIX : header.end] = 0


def derive_unwind_table(elf: Elf) -> None:
    """Fill the table of `elf`, in place, from its .eh_frame; as much as there is room for."""
    header, frames = unwind_table(elf), elf.section(b".eh_frame")
    if header is None or frames is None:
        return
    raw = elf.bytes_of(frames)
    words = raw[: len(raw) // 4 * 4].copy().view("<i4")
    starts = _records(words)
    starts = starts[starts + 3 < len(words)]
    starts = starts[words[starts + 1] != 0]
    begin = frames.address + 4 * (starts + 2) + words[starts + 2]
    table = np.stack([begin - header.address, frames.address + 4 * starts - header.address], axis=1)
    table = table[np.argsort(table[:, 0], kind="stable")]
    room = elf.bytes_of(header)[_PREFIX:]
    filled = np.ascontiguousarray(table.astype("<i4")).view(np.uint8).reshape(-1)[: len(room)]
    room[: len(filled)] = filled


def _records(words: np.ndarray) -> I64:
    """Where the records of .eh_frame begin, in words: each says how long it is.

    Instead of a walk: where every word would lead to, then twice as far, four times as far…
    """
    count = len(words)
    if count == 0:
        return np.zeros(0, np.int64)
    lengths = words.view(np.uint32) >> 2
    places = np.arange(count, dtype=np.int64)
    following = np.where(lengths > 0, places + 1 + lengths, count)
    leads = np.append(np.minimum(following, count), count)
    found = np.zeros(1, np.int64)
    while len(found):
        further = leads[found]
        further = further[further < count]
        if len(further) == 0:
            break
        found = np.concatenate([found, further])
        leads = leads[leads]
    return found
