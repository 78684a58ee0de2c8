"""References in the tables of an ELF file: relocations, symbols, unwind tables, pointers.

System V gABI chapter 4 and 5; LSB Core "Exception Frames" for .eh_frame and .eh_frame_hdr.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from hacktree.common.delta.elf import (
    EM_X86_64,
    SHF_WRITE,
    SHT_DYNAMIC,
    SHT_DYNSYM,
    SHT_FINI_ARRAY,
    SHT_GNU_HASH,
    SHT_HASH,
    SHT_INIT_ARRAY,
    SHT_NOBITS,
    SHT_RELA,
    SHT_SYMTAB,
    Elf,
    Section,
)
from hacktree.common.delta.references import (
    ABSOLUTE,
    Group,
    Reach,
    fields,
    in_ranges,
    ranges_of,
)
from hacktree.common.delta.varint import I64

_RELATIVE: Final = {62: (8, 37), 183: (1027, 1032)}
"""By machine: the types of relocations whose addend is an address (RELATIVE, IRELATIVE)."""

_ADDRESS_TAGS: Final = np.array(
    [3, 4, 5, 6, 7, 12, 13, 17, 23, 25, 26, 32, 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE],
    np.int64,
)


def table_references(elf: Elf, reach: Reach) -> Iterator[Group]:
    """The groups of every section that is no code."""
    symbols: dict[int, I64 | None] = {}
    for section in elf.sections:
        if section.type == SHT_RELA:
            if elf.is_relocatable and section.link not in symbols:
                symbols[section.link] = _symbol_sections(elf, section.link)
            yield from _relocations(elf, section, symbols.get(section.link))
        elif section.type in (SHT_SYMTAB, SHT_DYNSYM):
            yield from _symbols(elf, section)
        elif section.type == SHT_DYNAMIC:
            yield _dynamic(elf, section)
        elif section.type in (SHT_HASH, SHT_GNU_HASH):
            yield _hash_table(elf, section)
    yield from _plt_numbers(elf)
    yield from _unwind(elf)
    yield from _pointers(elf, reach)


def _columns(elf: Elf, section: Section, words: int) -> I64:
    """The section as rows of 8-byte words."""
    raw = elf.bytes_of(section)
    return raw[: len(raw) // (8 * words) * (8 * words)].copy().view("<i8").reshape(-1, words)


def _relocations(elf: Elf, section: Section, symbols: I64 | None) -> Iterator[Group]:
    table = _columns(elf, section, 3)
    at = section.offset + 24 * np.arange(len(table), dtype=np.int64)
    number = table[:, 1] >> 32 & 0xFFFFFFFF
    bound = np.flatnonzero(number)
    yield _indexes(elf, section.link, at[bound] + 12, number[bound])
    if elf.is_relocatable:
        yield from _object_relocations(elf, section, table, at, symbols)
        return
    yield Group(8, at, table[:, 0], np.full(len(at), ABSOLUTE))
    kinds = table[:, 1] & 0xFFFFFFFF
    relative = np.flatnonzero(np.isin(kinds, _RELATIVE[elf.machine]))
    yield Group(8, at[relative] + 16, table[relative, 2], np.full(len(relative), ABSOLUTE))


def _indexes(elf: Elf, link: int, at: I64, numbers: I64) -> Group:
    """Fields that number the entries of section `link`, a table of 24-byte entries."""
    if not 0 < link < len(elf.sections):
        at, numbers, base = at[:0], numbers[:0], 0
    else:
        base = elf.sections[link].address
    return Group(4, at, base + 24 * numbers, np.full(len(at), base), scale=24)


def _hash_table(elf: Elf, section: Section) -> Group:
    """Symbol numbers in .hash (all words but the first two) or in the buckets of .gnu.hash."""
    raw = elf.bytes_of(section)
    words = raw[: len(raw) // 4 * 4].copy().view("<u4").astype(np.int64)
    start, end = 2, len(words)
    if section.type == SHT_GNU_HASH:
        if len(words) < 4:
            return _indexes(elf, 0, words[:0], words[:0])
        start = 4 + 2 * int(words[2])
        end = min(end, start + int(words[0]))
    chosen = np.flatnonzero(words[start:end]) + start
    return _indexes(elf, section.link, section.offset + 4 * chosen, words[chosen])


def _plt_numbers(elf: Elf) -> Iterator[Group]:
    """The operands of `push NUMBER` in PLT entries: they number the relocations of the PLT."""
    if elf.machine != EM_X86_64:
        return
    relocations = elf.section(b".rela.plt")
    for section in elf.sections:
        if section.name != b".plt" or not section.is_code or relocations is None:
            continue
        raw = elf.bytes_of(section)
        entries = raw[: len(raw) // 16 * 16].reshape(-1, 16)
        for opcode in (4, 6):
            chosen = np.flatnonzero(entries[:, opcode] == 0x68)
            at = 16 * chosen + opcode + 1
            numbers = fields(raw, 4)[at].astype(np.int64) if len(at) else at
            yield _indexes(elf, relocations.index, section.offset + at, numbers)


def jump_tables(elf: Elf, reach: Reach, code: Sequence[Group]) -> Iterator[Group]:
    """Tables of offsets to code, relative to the table's start, which code refers to."""
    sections = [s for s in elf.sections if s.name.startswith(b".rodata") and s.is_loaded]
    ranges = ranges_of(sections)
    starts = [group.target[in_ranges(group.target, ranges)] for group in code]
    referred = np.unique(np.concatenate([np.zeros(0, np.int64), *starts]))
    for section in sections:
        first = np.searchsorted(referred, section.address)
        last = np.searchsorted(referred, section.address + section.size)
        inside = referred[first:last]
        raw = elf.bytes_of(section)
        words = raw[: len(raw) // 4 * 4].copy().view("<i4").astype(np.int64)
        inside = inside[inside % 4 == 0] - section.address
        if section.address % 4 or len(inside) == 0:
            continue
        at = np.arange(len(words), dtype=np.int64) * 4
        index = np.searchsorted(inside, at, side="right") - 1
        start = inside[np.maximum(index, 0)]
        target = section.address + start + words
        good = (index >= 0) & in_ranges(target, reach.executed)
        # A table ends at the first word that is no offset to code.
        last_bad = np.maximum.accumulate(np.where(good, -1, at))
        chosen = np.flatnonzero(good & (last_bad < start))
        base = section.address + start[chosen]
        yield Group(4, section.offset + at[chosen], target[chosen], base)


def _object_relocations(
    elf: Elf, section: Section, table: I64, at: I64, symbols: I64 | None
) -> Iterator[Group]:
    if not 0 < section.info < len(elf.sections):
        return
    place = elf.sections[section.info].address
    yield Group(8, at, table[:, 0] + place, np.full(len(at), place))
    if symbols is None:
        return
    number = (table[:, 1] >> 32) & 0xFFFFFFFF
    valid = number < len(symbols)
    base = symbols[np.where(valid, number, 0)]
    chosen = np.flatnonzero(valid & (base != ABSOLUTE))
    yield Group(8, at[chosen] + 16, table[chosen, 2] + base[chosen], base[chosen])


def _symbol_sections(elf: Elf, index: int) -> I64 | None:
    """For each symbol of table `index`: the address of its section if it is a section symbol."""
    if not 0 < index < len(elf.sections) or elf.sections[index].type != SHT_SYMTAB:
        return None
    table = _columns(elf, elf.sections[index], 3)
    kind = (table[:, 0] >> 32) & 15
    place = (table[:, 0] >> 48) & 0xFFFF
    addresses = np.array([s.address for s in elf.sections], np.int64)
    known = (kind == 3) & (place > 0) & (place < len(addresses))
    return np.where(known, addresses[np.where(known, place, 0)], ABSOLUTE)


def _symbols(elf: Elf, section: Section) -> Iterator[Group]:
    table = _columns(elf, section, 3)
    at = section.offset + 24 * np.arange(len(table), dtype=np.int64)
    place = (table[:, 0] >> 48) & 0xFFFF
    value, size = table[:, 1], table[:, 2]
    defined = (place > 0) & (place < len(elf.sections)) & ((table[:, 0] >> 32 & 15) != 6)
    base = np.full(len(at), ABSOLUTE)
    if elf.is_relocatable:
        addresses = np.array([s.address for s in elf.sections], np.int64)
        base = np.where(defined, addresses[np.where(defined, place, 0)], ABSOLUTE)
        value = np.where(defined, value + base, value)
    chosen = np.flatnonzero(defined)
    yield Group(8, at[chosen] + 8, value[chosen], base[chosen])
    chosen = np.flatnonzero(defined & (size > 0))
    yield Group(8, at[chosen] + 16, value[chosen] + size[chosen], value[chosen])
    if 0 < section.link < len(elf.sections):
        strings = elf.sections[section.link].address
        name = table[:, 0] & 0xFFFFFFFF
        chosen = np.flatnonzero(name > 0)
        yield Group(4, at[chosen], strings + name[chosen], np.full(len(chosen), strings))


def _dynamic(elf: Elf, section: Section) -> Group:
    table = _columns(elf, section, 2)
    chosen = np.flatnonzero(np.isin(table[:, 0], _ADDRESS_TAGS))
    at = section.offset + 16 * chosen + 8
    return Group(8, at, table[chosen, 1], np.full(len(chosen), ABSOLUTE))


def _unwind(elf: Elf) -> Iterator[Group]:
    """.eh_frame by way of .eh_frame_hdr's sorted table, so that no walk is needed."""
    header, frames = elf.section(b".eh_frame_hdr"), elf.section(b".eh_frame")
    if header is None or frames is None or header.end - header.offset < 12:
        return
    raw = elf.bytes_of(header)
    if raw[:4].tobytes() != b"\x01\x1b\x03\x3b":
        return
    table = raw[12 : len(raw) // 8 * 8 + 4]
    words = table[: len(table) // 8 * 8].copy().view("<i4").astype(np.int64)
    pairs: I64 = words.reshape(-1, 2)
    at = header.offset + 12 + 8 * np.arange(len(pairs), dtype=np.int64)
    base = np.full(len(at), header.address)
    yield Group(4, at, pairs[:, 0] + header.address, base)
    yield Group(4, at + 4, pairs[:, 1] + header.address, base)
    pointer = np.array([header.offset + 4], np.int64)
    yield Group(4, pointer, np.array([frames.address], np.int64))
    yield from _frames(elf, frames, pairs[:, 1] + header.address)


def _frames(elf: Elf, section: Section, entries: I64) -> Iterator[Group]:
    size = section.end - section.offset
    starts = np.unique(entries - section.address)
    starts = starts[(starts >= 0) & (starts + 21 <= size)]
    raw = elf.bytes_of(section)
    at = starts + section.offset
    words = fields(raw, 4)
    yield Group(4, at + 4, section.address + starts + 4 - words[starts + 4], sign=-1)
    begin = section.address + starts + 8 + words[starts + 8]
    yield Group(4, at + 8, begin)
    length = words[starts + 12].astype(np.int64) & 0xFFFFFFFF
    yield Group(4, at + 12, begin + length, begin)
    table = elf.section(b".gcc_except_table")
    if table is None:
        return
    chosen = starts[raw[starts + 16] == 4]
    target = section.address + chosen + 17 + words[chosen + 17]
    inside = (target >= table.address) & (target < table.address + table.size)
    yield Group(4, chosen[inside] + 17 + section.offset, target[inside])


_POINTER_SECTIONS: Final = (b".data", b".data.rel.ro", b".got", b".got.plt", b".tdata")


def _pointers(elf: Elf, reach: Reach) -> Iterator[Group]:
    for section in elf.sections:
        if section.type == SHT_NOBITS or elf.is_relocatable:
            continue
        arrays = section.type in (SHT_INIT_ARRAY, SHT_FINI_ARRAY)
        if arrays or (section.name.startswith(_POINTER_SECTIONS) and section.flags & SHF_WRITE):
            values = _columns(elf, section, 1)[:, 0]
            chosen = np.flatnonzero((values != 0) & in_ranges(values, reach.loaded))
            at = section.offset + 8 * chosen
            yield Group(8, at, values[chosen], np.full(len(chosen), ABSOLUTE))
        elif section.name == b".gcc_except_table":
            yield _type_table(elf, section, reach)


def _type_table(elf: Elf, section: Section, reach: Reach) -> Group:
    """Type pointers of C++ exceptions: relative to themselves, to pointers in writable data."""
    raw = elf.bytes_of(section)
    skew = -section.address % 4
    words = raw[skew : skew + (len(raw) - skew) // 4 * 4].copy().view("<i4").astype(np.int64)
    at = skew + 4 * np.arange(len(words), dtype=np.int64)
    target = section.address + at + words
    inside = in_ranges(target, reach.written)
    return Group(4, at[inside] + section.offset, target[inside])
