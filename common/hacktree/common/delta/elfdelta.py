"""ELF-aware deltas: references are predicted from where the copies move things.

Decoding: copies, new bytes and differences give everything but the references that copies brought;
the tables of the new file are then whole, so every reference of the old file is followed to where
its target went, and what it becomes is written, corrected where the encoder saw otherwise.
docs/format.md, "ELF-aware entries"; docs/deltas.md explains the scheme.
"""

import enum
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from hacktree.common.delta import aarch64, x86_64
from hacktree.common.delta.addressmap import AddressMap, Places, map_addresses
from hacktree.common.delta.alignment import alignment_image
from hacktree.common.delta.derived import (
    clear_unwind_table,
    derive_unwind_table,
    unwind_table,
)
from hacktree.common.delta.elf import (
    EM_AARCH64,
    EM_X86_64,
    SHT_NOBITS,
    U8,
    Elf,
    NotElfError,
    parse_elf,
)
from hacktree.common.delta.encodings import Encoding, wrap
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.matcher import find_copies
from hacktree.common.delta.plain import (
    Parts,
    copy_parts,
    decode_plain,
    decode_positions,
    encode_differences,
    encode_positions,
    lay_copies,
)
from hacktree.common.delta.prediction import Landed, land, read_fields, write_fields
from hacktree.common.delta.references import ABSOLUTE, Group, Reach, without_overlaps
from hacktree.common.delta.tables import jump_tables, table_references
from hacktree.common.delta.varint import I64, decode_varints, encode_varints, unzigzag, zigzag
from hacktree.common.objects.errors import FormatError


class Derivation(enum.IntFlag):
    """Which sections the decoder derives from the others."""

    NONE = 0
    UNWIND_TABLE = 1


_SCANS: Final = {EM_X86_64: x86_64.code_references, EM_AARCH64: aarch64.code_references}
"""By machine: the references in a section of code."""

_WORTH_A_POINT: Final = 2
"""References that an exception to the address map must set right."""


def find_references(elf: Elf, derivation: Derivation) -> list[Group]:
    """Every reference of the file, table by table and then the code; none overlap.

    Those of a table that is derived are left out.
    """
    reach = Reach.of(elf)
    groups = list(table_references(elf, reach))
    header = unwind_table(elf) if derivation & Derivation.UNWIND_TABLE else None
    if header is not None:
        groups = [g.take((g.at < header.offset + 12) | (g.at >= header.end)) for g in groups]
    code: list[Group] = []
    scan = _SCANS[elf.machine]
    for section in elf.sections:
        if section.is_code and section.type != SHT_NOBITS:
            code.extend(scan(elf, section, reach))
    exact = [group for group in code if group.encoding is not Encoding.PAGE21]
    return without_overlaps(len(elf.data), [*groups, *code, *jump_tables(elf, reach, exact)])


def encode_elf(old: Elf, new: Elf) -> EncodedEntry | None:
    """The entry, or None if the two aren't for one machine and of one kind. Not verified here."""
    if old.machine != new.machine or old.is_relocatable != new.is_relocatable:
        return None
    derivation = _choose_derivation(old, new)
    before, after = _base(old, derivation), _base(new, derivation)
    groups, there = find_references(old, derivation), find_references(new, derivation)
    copies = find_copies(
        alignment_image(replace(old, data=before), groups),
        alignment_image(replace(new, data=after), there),
    )
    move = map_addresses(copies, old, new)
    landed = list(land(copies, groups, Places.of(new)))
    move, points = _learn_points(landed, after, move, there)
    copied, extra = lay_copies(copies, before, after)
    corrections = _encode_corrections(landed, after, move)
    for fields in landed:
        write_fields(copied, fields, read_fields(after, fields))
    parts = {
        **copy_parts(copies),
        StreamKind.EXTRA: extra,
        StreamKind.DERIVED: bytes([derivation]) if derivation else b"",
        **encode_differences(copied, after),
        **points,
        **corrections,
    }
    cost = 1500 + (len(before) + len(after)) // 230
    return EncodedEntry(EntryKind.ELF, parts, cost)


def _choose_derivation(old: Elf, new: Elf) -> Derivation:
    """What can be derived exactly."""
    if unwind_table(old) is None or unwind_table(new) is None:
        return Derivation.NONE
    trial = replace(new, data=new.data.copy())
    clear_unwind_table(trial.data, new)
    derive_unwind_table(trial)
    return Derivation(int(np.array_equal(trial.data, new.data)))


def _base(elf: Elf, derivation: Derivation) -> U8:
    """The file as copies see it: without what is derived."""
    if not derivation:
        return elf.data
    data = elf.data.copy()
    clear_unwind_table(data, elf)
    return data


def decode_elf(parts: Parts, before: memoryview, output: memoryview) -> None:
    """Fill `output`, whose length is the object's size; raises `FormatError`."""
    derivation = _read_derivation(parts.get(StreamKind.DERIVED, memoryview(b"")))
    try:
        old = parse_elf(np.frombuffer(before, np.uint8))
    except NotElfError:
        raise FormatError("an ELF-aware delta against a base that is no ELF file") from None
    groups = find_references(old, derivation)
    copies = decode_plain(parts, _base(old, derivation).data, output)
    after = np.frombuffer(output, np.uint8)
    try:
        new = parse_elf(after)
    except NotElfError:
        raise FormatError("an ELF-aware delta makes no ELF file") from None
    move = _decode_points(parts, map_addresses(copies, old, new))
    landed = list(land(copies, groups, Places.of(new)))
    corrections = _Corrections(parts, sum(len(fields.at) for fields in landed))
    for fields in landed:
        write_fields(after, fields, corrections.apply(fields.predict(move)))
    if derivation & Derivation.UNWIND_TABLE:
        derive_unwind_table(new)


def _read_derivation(part: memoryview) -> Derivation:
    if len(part) == 0:
        return Derivation.NONE
    if bytes(part) != bytes([Derivation.UNWIND_TABLE]):
        raise FormatError("a delta derives sections of an unknown kind")
    return Derivation.UNWIND_TABLE


def _encode_corrections(
    landed: Sequence[Landed], after: U8, move: AddressMap
) -> dict[StreamKind, bytes]:
    """What is to be added to predictions, by their number over all groups."""
    numbers, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    first = 0
    for fields in landed:
        wrong = wrap(read_fields(after, fields) - fields.predict(move), fields.group.bits)
        chosen = np.flatnonzero(wrong)
        numbers.append(chosen + first)
        values.append(wrong[chosen])
        first += len(wrong)
    return {
        StreamKind.REFERENCE_GAPS: encode_positions(np.concatenate(numbers)),
        StreamKind.REFERENCE_VALUES: encode_varints(zigzag(np.concatenate(values))),
    }


class _Corrections:
    """The decoder's side: handed out group by group."""

    def __init__(self, parts: Parts, fields: int) -> None:
        raw = parts.get(StreamKind.REFERENCE_VALUES, memoryview(b""))
        count = count_varints(raw)
        self._values = unzigzag(decode_varints(raw, count))
        gaps = parts.get(StreamKind.REFERENCE_GAPS, memoryview(b""))
        self._numbers = decode_positions(gaps, count, fields)
        self._first = 0

    def apply(self, predicted: I64) -> I64:
        """The next group's predictions, corrected in place."""
        end = self._first + len(predicted)
        start, stop = np.searchsorted(self._numbers, [self._first, end])
        predicted[self._numbers[start:stop] - self._first] += self._values[start:stop]
        self._first = end
        return predicted


def count_varints(raw: memoryview) -> int:
    """How many varints `raw` holds if it holds only whole ones."""
    return int(np.count_nonzero(np.frombuffer(raw, np.uint8) < 0x80))


def _learn_points(
    landed: Sequence[Landed], after: U8, move: AddressMap, there: Sequence[Group]
) -> tuple[AddressMap, dict[StreamKind, bytes]]:
    """Addresses to which the new file's references, `there`, say another move than copies do."""
    sources, targets = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for fields in landed:
        source = fields.group.target[fields.index]
        if fields.group.encoding.is_partial:
            known, actual = _look_up(there, fields)
            source = source[known]
        else:
            actual = fields.targets(read_fields(after, fields), move)
        if fields.group.width == 4 and fields.group.encoding is Encoding.WHOLE:
            # The field holds the difference modulo 2**32 only.
            moved = move(source)
            actual = moved + wrap(actual - moved, 32)
        sources.append(source)
        targets.append(actual)
    point, moved = _majorities(np.concatenate(sources), np.concatenate(targets), move)
    if len(point) == 0:
        return move, {}
    parts = {
        StreamKind.POINT_GAPS: encode_varints(zigzag(np.diff(point, prepend=0))),
        StreamKind.POINT_MOVES: encode_varints(zigzag(moved - move(point))),
    }
    return AddressMap(move.start, move.shift, point, moved), parts


def _look_up(there: Sequence[Group], landed: Landed) -> tuple[np.ndarray, I64]:
    """Which fields are references of their shape in the new file too, and the targets of those.

    A page or a place in a page alone says neither.
    """
    shape = (landed.group.encoding, landed.group.scale)
    known = np.zeros(len(landed.at), bool)
    target = np.zeros(len(landed.at), np.int64)
    for group in there:
        if (group.encoding, group.scale) == shape and len(group.at):
            index = np.minimum(np.searchsorted(group.at, landed.at), len(group.at) - 1)
            same = group.at[index] == landed.at
            target[same] = group.target[index[same]]
            known |= same
    return known, target[known]


def _majorities(source: I64, target: I64, move: AddressMap) -> tuple[I64, I64]:
    """For addresses that most of their references move elsewhere than `move`: where to."""
    order = np.lexsort((target, source))
    source, target = source[order], target[order]
    if len(source) == 0:
        return source, target
    fresh = np.ones(len(source), bool)
    fresh[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
    first = np.flatnonzero(fresh)
    votes = np.diff(np.append(first, len(source)))
    source, target = source[first], target[first]
    expected = move(source)
    right = target == expected
    # Votes for the map's own answer, for each address.
    group = np.cumsum(np.concatenate([[True], source[1:] != source[:-1]])) - 1
    own = np.zeros(int(group[-1]) + 1, np.int64)
    own[group[right]] = votes[right]
    best = np.lexsort((votes, group))
    last = np.flatnonzero(np.append(group[best][1:] != group[best][:-1], True))
    chosen = best[last]
    gain = votes[chosen] - own[group[chosen]]
    chosen = chosen[(gain >= _WORTH_A_POINT) & (source[chosen] != ABSOLUTE)]
    return source[chosen], target[chosen]


def _decode_points(parts: Parts, move: AddressMap) -> AddressMap:
    raw = parts.get(StreamKind.POINT_GAPS, memoryview(b""))
    count = count_varints(raw)
    if not count:
        return move
    point = np.cumsum(unzigzag(decode_varints(raw, count)))
    if np.any(point[1:] <= point[:-1]):
        raise FormatError("the exceptions to an address map are not in order")
    shifts = unzigzag(decode_varints(parts.get(StreamKind.POINT_MOVES, memoryview(b"")), count))
    return AddressMap(move.start, move.shift, point, move(point) + shifts)
