"""Where the bytes of a delta are: by section of the new file, for people who tune the codec."""

from collections.abc import Mapping

import msgspec
import numpy as np

from hacktree.common.delta.copies import EncodedCopies, decode_copies
from hacktree.common.delta.elf import U8, NotElfError, parse_elf
from hacktree.common.delta.entry import EncodedEntry, StreamKind
from hacktree.common.delta.plain import decode_positions
from hacktree.common.delta.varint import I64

_CONTROL = (StreamKind.COPY_LENGTHS, StreamKind.COPY_GAPS, StreamKind.COPY_SEEKS)
_DIFFERENCES = (StreamKind.DIFF_GAPS, StreamKind.DIFF_VALUES)


class SectionShare(msgspec.Struct, frozen=True):
    """One section of the new file: its bytes by where they come from, and its share of the delta.

    `estimate` divides the compressed size of each stream by what the section has in it; streams
    that belong to no section are divided by nothing and left out.
    """

    name: str
    size: int
    copies: int
    differing: int
    new: int
    estimate: int


def explain_sections(
    entry: EncodedEntry, old_size: int, new: bytes, streams: Mapping[str, int]
) -> list[SectionShare]:
    """The sections of the ELF file `new`, largest share first; one row for anything else.

    `streams` are compressed sizes by the lower-case name of the stream, as `stream_sizes` gives.
    """
    after = np.frombuffer(new, np.uint8)
    empty = memoryview(b"")
    parts = {kind: memoryview(part) for kind, part in entry.parts.items()}
    copies = decode_copies(
        EncodedCopies(*(parts.get(kind, empty) for kind in _CONTROL)), old_size, len(new)
    )
    gaps = parts.get(StreamKind.DIFF_GAPS, empty)
    values = parts.get(StreamKind.DIFF_VALUES, empty)
    differing = decode_positions(gaps, len(values), len(new))
    starts, lengths = copies.gaps(len(new))
    fresh = np.repeat(starts, lengths) + _numbers(lengths)
    names, edges = _regions(after)
    counts = [np.histogram(at, edges)[0] for at in (copies.new, differing, fresh)]
    weights = [
        sum(streams.get(kind.name.lower(), 0) for kind in kinds)
        for kinds in (_CONTROL, _DIFFERENCES, (StreamKind.EXTRA,))
    ]
    totals = [max(int(count.sum()), 1) for count in counts]
    rows = [
        SectionShare(
            name,
            int(edges[i + 1] - edges[i]),
            int(counts[0][i]),
            int(counts[1][i]),
            int(counts[2][i]),
            round(sum(w * int(c[i]) / t for w, c, t in zip(weights, counts, totals, strict=True))),
        )
        for i, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row.estimate)


def _numbers(lengths: I64) -> I64:
    """0, 1, 2… for each length, one after the other."""
    ends = np.cumsum(lengths)
    numbers: I64 = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return numbers


def _regions(after: U8) -> tuple[list[str], I64]:
    """Names and edges of stretches that cover the file: sections, and what lies between them."""
    try:
        sections = parse_elf(after).sections
    except NotElfError:
        return ["file"], np.array([0, len(after)], np.int64)
    names, edges = [], [0]
    for section in sorted((s for s in sections if s.end > s.offset), key=lambda s: s.offset):
        if section.offset < edges[-1]:
            continue
        if section.offset > edges[-1]:
            names.append("(headers and padding)")
            edges.append(section.offset)
        names.append(section.name.decode("ascii", "replace"))
        edges.append(section.end)
    if edges[-1] < len(after):
        names.append("(headers and padding)")
        edges.append(len(after))
    return names, np.array(edges, np.int64)
