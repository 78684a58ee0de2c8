"""What an ELF file asks of the dynamic linker and offers to others.

Reads only what the linker reads: program headers and the dynamic section. Source: System V ABI,
"Dynamic Linking"; Linux Standard Base, "Symbol Versioning". A pure-Python library for ELF takes
milliseconds a file; an operating system has thousands of them (docs/adr/0021).
"""

import mmap
import os
import struct
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PT_INTERP: Final = 3
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5
_DT_SONAME: Final = 14
_DT_RPATH: Final = 15
_DT_RUNPATH: Final = 29
_DT_VERDEF: Final = 0x6FFFFFFC
_DT_VERDEFNUM: Final = 0x6FFFFFFD
_DT_VERNEED: Final = 0x6FFFFFFE
_DT_VERNEEDNUM: Final = 0x6FFFFFFF
_WEAK: Final = 2

_HEADER: Final = 52
_MAX_ENTRIES: Final = 1 << 14
_MAX_NAME: Final = 4096

T = TypeVar("T")


class Dynamic(msgspec.Struct, frozen=True):
    """A dynamically linked program or library.

    `kind`: class, byte order and machine; only files of one kind are linked with each other.
    `needed`: names of libraries. `requires`: for each of some, the versions of its symbols that
    must be there. `provides`: the versions that it defines. `rpath`, `runpath`: where it wants
    libraries looked for, with `$ORIGIN` as it stands there.
    """

    kind: tuple[int, int, int]
    interpreter: bytes
    soname: bytes
    needed: tuple[bytes, ...]
    requires: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    provides: frozenset[bytes]
    rpath: tuple[bytes, ...]
    runpath: tuple[bytes, ...]


def read_dynamic(descriptor: int) -> Dynamic | None:
    """What the open file says; None if it is no dynamically linked ELF file, or a damaged one."""
    if os.pread(descriptor, 4, 0) != b"\x7fELF" or os.fstat(descriptor).st_size < _HEADER:
        return None
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).read()
        except (struct.error, _MalformedError):
            return None


class _MalformedError(Exception):
    """The tables of the file contradict themselves."""


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        wide, order = data[4], data[5]
        if wide not in (1, 2) or order not in (1, 2):
            raise _MalformedError
        self._wide = wide == 2
        self._order = "<" if order == 1 else ">"
        (machine,) = self._unpack("H", 18)
        self._kind = (wide, order, machine)
        self._loads: list[tuple[int, int, int]] = []
        self._strings = 0

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        if offset > len(self._data):
            raise _MalformedError
        return struct.unpack_from(self._order + layout, self._data, offset)

    def read(self) -> Dynamic | None:
        dynamic, interpreter = self._read_segments()
        if dynamic is None:
            return None
        found: dict[int, list[int]] = {}
        step = 16 if self._wide else 8
        layout = "qQ" if self._wide else "iI"
        offset, size = dynamic
        for at in range(offset, offset + min(size, _MAX_ENTRIES * step) - step + 1, step):
            tag, value = self._unpack(layout, at)
            if tag == 0:
                break
            found.setdefault(tag, []).append(value)
        if _DT_STRTAB not in found:
            return None
        self._strings = self._offset(found[_DT_STRTAB][0])

        def names(tag: int) -> tuple[bytes, ...]:
            return tuple(self._string(self._strings + value) for value in found.get(tag, ()))

        def paths(tag: int) -> tuple[bytes, ...]:
            return tuple(part for text in names(tag) for part in text.split(b":") if part)

        return Dynamic(
            self._kind,
            interpreter,
            (names(_DT_SONAME) or (b"",))[0],
            names(_DT_NEEDED),
            self._versions(found, _DT_VERNEED, _DT_VERNEEDNUM, self._read_needs),
            frozenset(self._versions(found, _DT_VERDEF, _DT_VERDEFNUM, self._read_definitions)),
            paths(_DT_RPATH),
            paths(_DT_RUNPATH),
        )

    def _read_segments(self) -> tuple[tuple[int, int] | None, bytes]:
        """Offset and size of the dynamic section, and the interpreter's path."""
        if self._wide:
            (table,), (entry, count) = self._unpack("Q", 32), self._unpack("HH", 54)
        else:
            (table,), (entry, count) = self._unpack("I", 28), self._unpack("HH", 42)
        dynamic, interpreter = None, b""
        for at in range(table, table + entry * count, max(entry, 1)):
            if self._wide:
                kind, _, offset, address, _, size = self._unpack("IIQQQQ", at)
            else:
                kind, offset, address, _, size = self._unpack("IIIII", at)
            if kind == _PT_LOAD:
                self._loads.append((address, size, offset))
            elif kind == _PT_DYNAMIC:
                dynamic = (offset, size)
            elif kind == _PT_INTERP:
                interpreter = self._string(offset)
        return dynamic, interpreter

    def _offset(self, address: int) -> int:
        for start, size, offset in self._loads:
            if start <= address < start + size:
                return offset + address - start
        raise _MalformedError

    def _string(self, offset: int) -> bytes:
        if offset > len(self._data):
            raise _MalformedError
        end = self._data.find(b"\0", offset, offset + _MAX_NAME)
        if end < 0:
            raise _MalformedError
        return self._data[offset:end]

    def _versions(
        self,
        found: dict[int, list[int]],
        table: int,
        number: int,
        read: Callable[[int, int], tuple[T, ...]],
    ) -> tuple[T, ...]:
        if table not in found or number not in found:
            return ()
        return read(self._offset(found[table][0]), min(found[number][0], _MAX_ENTRIES))

    def _read_needs(self, at: int, count: int) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
        needs = []
        left = _MAX_ENTRIES
        for _ in range(count):
            _, inner, file, first, following = self._unpack("HHIII", at)
            versions = []
            place = at + first
            left -= inner
            if left < 0:
                raise _MalformedError
            for _ in range(inner):
                _, flags, _, name, next_ = self._unpack("IHHII", place)
                if not flags & _WEAK:
                    versions.append(self._string(self._strings + name))
                if next_ == 0:
                    break
                place += next_
            needs.append((self._string(self._strings + file), tuple(versions)))
            if following == 0:
                break
            at += following
        return tuple(needs)

    def _read_definitions(self, at: int, count: int) -> tuple[bytes, ...]:
        names = []
        for _ in range(count):
            _, _, _, inner, _, first, following = self._unpack("HHHHIII", at)
            if inner:
                (name, _) = self._unpack("II", at + first)
                names.append(self._string(self._strings + name))
            if following == 0:
                break
            at += following
        return tuple(names)
