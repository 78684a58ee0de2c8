"""Reading an ELF file's tables, bounded: sections, and the addresses at which they stand.

Only 64-bit little-endian files. Nothing an ELF file says is believed without a check against its
size: one that lies raises `NotElfError`, and the caller treats it as plain bytes.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

EM_X86_64: Final = 62
EM_AARCH64: Final = 183
ET_REL: Final = 1

SHT_SYMTAB: Final = 2
SHT_RELA: Final = 4
SHT_HASH: Final = 5
SHT_DYNAMIC: Final = 6
SHT_NOBITS: Final = 8
SHT_INIT_ARRAY: Final = 14
SHT_FINI_ARRAY: Final = 15
SHT_DYNSYM: Final = 11
SHT_GNU_HASH: Final = 0x6FFFFFF6
SHF_WRITE: Final = 1
SHF_ALLOC: Final = 2
SHF_EXECINSTR: Final = 4

UNLOADED: Final = 1 << 44
"""Where sections that have no address are put, by their file offsets."""

_HEADER: Final = 64
_MAX_SECTIONS: Final = 10_000
_MAX_ADDRESS: Final = (1 << 64) - 1
_KERNEL: Final = 0xFFFF_FFFF_0000_0000
"""Addresses from here on are taken as negative ones."""

_SECTION_TYPE: Final = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("address", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("align", "<u8"),
        ("entry", "<u8"),
    ]
)


class NotElfError(Exception):
    """Not an ELF file that this program understands; never leaves the delta package."""


class Section(msgspec.Struct, frozen=True):
    """One section; `address` is unique: a link-time address, or one made up for the file.

    `end` is the first offset in the file behind it; a section without bytes has `size` in memory
    and `end == offset`.
    """

    index: int
    name: bytes
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int

    @property
    def end(self) -> int:
        """The file offset behind the section's bytes."""
        return self.offset if self.type == SHT_NOBITS else self.offset + self.size

    @property
    def is_code(self) -> bool:
        """Whether the section is executed."""
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def is_loaded(self) -> bool:
        """Whether the section is in memory when the program runs."""
        return bool(self.flags & SHF_ALLOC)


class Elf(msgspec.Struct, frozen=True):
    """An ELF file: `data` whole, and its sections in the order of the file's table."""

    data: U8
    machine: int
    is_relocatable: bool
    sections: tuple[Section, ...]

    def section(self, name: bytes) -> Section | None:
        """The first section of this name."""
        return next((s for s in self.sections if s.name == name), None)

    def bytes_of(self, section: Section) -> U8:
        """A section's bytes in the file."""
        return self.data[section.offset : section.end]


def parse_elf(data: U8) -> Elf:
    """The tables of the file `data`; raises `NotElfError`."""
    if len(data) < _HEADER or data[:6].tobytes() != b"\x7fELF\x02\x01":
        raise NotElfError
    kind, machine = (int(x) for x in data[16:20].view("<u2"))
    if machine not in (EM_X86_64, EM_AARCH64):
        raise NotElfError
    table = int(data[40:48].view("<u8")[0])
    entry, count, names = (int(x) for x in data[58:64].view("<u2"))
    size = _SECTION_TYPE.itemsize
    if entry != size or not 1 < count <= _MAX_SECTIONS or names >= count:
        raise NotElfError
    if table < _HEADER or table + count * size > len(data):
        raise NotElfError
    headers = data[table : table + count * size].copy().view(_SECTION_TYPE)
    sections = _read_sections(data, headers, names, is_relocatable=kind == ET_REL)
    return Elf(data, machine, kind == ET_REL, sections)


def _read_sections(
    data: U8, headers: np.ndarray, names: int, *, is_relocatable: bool
) -> tuple[Section, ...]:
    rows = [tuple(int(value) for value in row) for row in headers.tolist()]
    text_offset, text_size = rows[names][4], rows[names][5]
    if text_offset + text_size > len(data):
        raise NotElfError
    text = data[text_offset : text_offset + text_size].tobytes()
    sections = []
    unloaded = UNLOADED + len(data)
    for index, row in enumerate(rows):
        name, kind, flags, address, offset, size, link, info = row[:8]
        if kind == 0:
            size = 0
        bytes_in_file = 0 if kind == SHT_NOBITS else size
        if offset + bytes_in_file > len(data) or size > _MAX_ADDRESS >> 20:
            raise NotElfError
        if is_relocatable or not flags & SHF_ALLOC:
            address = UNLOADED + offset
            if kind == SHT_NOBITS:
                address, unloaded = unloaded, unloaded + size
        elif address >= _KERNEL:
            address -= 1 << 64
        elif address + size >= UNLOADED:
            raise NotElfError
        end = text.find(b"\0", name) if name < len(text) else -1
        label = text[name:end] if end >= 0 else b""
        sections.append(Section(index, label, kind, flags, address, offset, size, link, info))
    # Sections don't overlap; those of a file that lies could make work without end.
    if sum(section.end - section.offset for section in sections) > 2 * len(data):
        raise NotElfError
    return tuple(sections)
