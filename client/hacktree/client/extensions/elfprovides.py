"""What a shared library provides in the terms of rpm: its soname and its symbol versions.

`libfoo.so.1()(64bit)` and `libfoo.so.1(FOO_1.2)(64bit)`, as rpm's own `elfdeps` has them. 64-bit
little-endian files only. System V gABI, "Dynamic Section"; LSB core, "Symbol Versioning".
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Final

import numpy as np

from hacktree.common.delta.elf import SHT_DYNAMIC, Elf, NotElfError, Section, parse_elf

MAX_NAME: Final = 255
"""Bytes of a soname or a symbol version; longer ones are left out."""

_MAX_VERSIONS: Final = 10_000
_SHT_GNU_VERDEF: Final = 0x6FFFFFFD
_DT_NULL: Final = 0
_DT_SONAME: Final = 14
_VER_FLG_BASE: Final = 1
_DYNAMIC: Final = struct.Struct("<QQ")
_VERDEF: Final = struct.Struct("<HHHHIII")
_VERDAUX: Final = struct.Struct("<II")


def read_provides(path: Path) -> tuple[str, ...]:
    """What the file provides, the soname first; empty for anything but a library with a soname.

    Only the pages that hold the tables are read. A file that lies about itself provides nothing.
    """
    with open(path, "rb", buffering=0) as stream:
        if stream.read(4) != b"\x7fELF":
            return ()
        size = os.fstat(stream.fileno()).st_size
        with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) as mapping:
            try:
                # A function of its own: no view of the mapping may be left when it is closed.
                return _provides(parse_elf(np.frombuffer(mapping, np.uint8)))
            except NotElfError:
                return ()


def _provides(elf: Elf) -> tuple[str, ...]:
    dynamic = next((s for s in elf.sections if s.type == SHT_DYNAMIC), None)
    if dynamic is None:
        return ()
    soname = _soname(elf, dynamic)
    if not soname:
        return ()
    found = [f"{soname}()(64bit)"]
    for section in elf.sections:
        if section.type == _SHT_GNU_VERDEF:
            found += [f"{soname}({version})(64bit)" for version in _versions(elf, section)]
    return tuple(dict.fromkeys(found))


def _soname(elf: Elf, dynamic: Section) -> str:
    data = elf.bytes_of(dynamic).tobytes()
    for tag, value in _DYNAMIC.iter_unpack(data[: len(data) // _DYNAMIC.size * _DYNAMIC.size]):
        if tag == _DT_NULL:
            break
        if tag == _DT_SONAME:
            return _name(elf, dynamic.link, value)
    return ""


def _versions(elf: Elf, section: Section) -> list[str]:
    """The names of version definitions but the first, which is the file's own."""
    data = elf.bytes_of(section).tobytes()
    names, at = [], 0
    for _ in range(_MAX_VERSIONS):
        if at + _VERDEF.size > len(data):
            break
        _, flags, _, _, _, auxiliary, following = _VERDEF.unpack_from(data, at)
        if not flags & _VER_FLG_BASE and at + auxiliary + _VERDAUX.size <= len(data):
            name = _name(elf, section.link, _VERDAUX.unpack_from(data, at + auxiliary)[0])
            names += [name] if name else []
        if following == 0:
            break
        at += following
    return names


def _name(elf: Elf, table: int, offset: int) -> str:
    """A string of the string table with that index, if it is one that a package could name."""
    if not 0 < table < len(elf.sections):
        return ""
    section = elf.sections[table]
    start = section.offset + offset
    if start >= section.end:
        return ""
    text, end, _ = (
        elf.data[start : min(start + MAX_NAME + 1, section.end)].tobytes().partition(b"\0")
    )
    name = text.decode("latin-1")
    usable = bool(end) and name.isascii() and name.isprintable() and not set(" ()") & set(name)
    return name if usable else ""
