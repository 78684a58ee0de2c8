"""Finding a library as the dynamic linker will in a root. Source: ld.so(8), ldconfig(8)."""

import fnmatch
import os
import re
from typing import Final

from hacktree.client.layers.dynamic import Dynamic, read_dynamic
from hacktree.client.layers.view import File, RootView, UnresolvableError, opened, resolve

_DEFAULT: Final = (b"lib", b"usr/lib", b"lib64", b"usr/lib64")
_MULTIARCH: Final = {
    3: b"i386-linux-gnu",
    40: b"arm-linux-gnueabihf",
    62: b"x86_64-linux-gnu",
    183: b"aarch64-linux-gnu",
    243: b"riscv64-linux-gnu",
}
"""By ELF machine: directories below lib that Debian's linker knows without a configuration."""

_MAX_CONFIGURATION: Final = 1 << 20
_MAX_INCLUDES: Final = 100
_TOKEN: Final = re.compile(rb"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM))")


class Linker:
    """Looks libraries up in one root; remembers what it has read of files."""

    def __init__(self, view: RootView) -> None:
        self._view = view
        self._configured = tuple(_read_configuration(view))
        self._read: dict[bytes, Dynamic | None] = {}
        self._listed: dict[bytes, bytes | None] = {}

    def read(self, path: bytes) -> Dynamic | None:
        """The file that `path` leads to; None if there is none that is linked dynamically."""
        place = self.locate(path)
        if place is None:
            return None
        if place not in self._read:
            with opened(self._view, place) as descriptor:
                self._read[place] = None if descriptor is None else read_dynamic(descriptor)
        return self._read[place]

    def locate(self, path: bytes) -> bytes | None:
        """The regular file that `path` leads to."""
        try:
            place = resolve(self._view, path, last=True)
        except UnresolvableError:
            return None
        return place if isinstance(self._view.find(place), File) else None

    def find(self, name: bytes, user: Dynamic, user_path: bytes) -> Dynamic | None:
        """The library that the linker takes for `name` on behalf of the file `user`."""
        if b"/" in name:
            candidates = [_expand(name, user_path)]
        else:
            candidates = [
                directory + b"/" + name for directory in self.directories(user, user_path)
            ]
        for path in candidates:
            found = self.read(path)
            if found is not None and found.kind == user.kind:
                return found
        return None

    def directories(self, user: Dynamic, user_path: bytes) -> list[bytes]:
        """Where the linker looks for the libraries of `user`, in order, resolved."""
        own = user.runpath or user.rpath
        arch = _MULTIARCH.get(user.kind[2])
        known = [directory + b"/" + arch for directory in _DEFAULT[:2]] if arch else []
        wanted = [
            *(_expand(path, user_path) for path in own),
            *self._configured,
            *known,
            *_DEFAULT,
        ]
        found = (self._directory(path) for path in wanted)
        return list(dict.fromkeys(path for path in found if path is not None))

    def similar(self, name: bytes, user: Dynamic, user_path: bytes) -> list[bytes]:
        """Other versions of a library that are where it is looked for: libfoo.so.6 for .so.5."""
        stem, dot, _ = name.partition(b".so.")
        if not dot:
            return []
        found = {
            other
            for directory in self.directories(user, user_path)
            for other in self._view.names(directory)
            if other.startswith(stem + b".so.") and other != name
        }
        sonames = {
            library.soname
            for other in found
            for directory in self.directories(user, user_path)
            if (library := self.read(directory + b"/" + other)) is not None
            and library.kind == user.kind
        }
        return sorted(sonames - {b"", name})

    def _directory(self, path: bytes) -> bytes | None:
        if path not in self._listed:
            try:
                self._listed[path] = resolve(self._view, path, last=True)
            except UnresolvableError:
                self._listed[path] = None
        return self._listed[path]


def _expand(path: bytes, user_path: bytes) -> bytes:
    """Replace `$ORIGIN` and what else the linker does; relative to the root."""
    origin = b"/" + os.path.dirname(user_path)
    values = {b"ORIGIN": origin, b"LIB": b"lib64", b"PLATFORM": b""}
    return _TOKEN.sub(lambda match: values[match[1] or match[2]], path).lstrip(b"/")


def _read_configuration(view: RootView) -> list[bytes]:
    """The directories of etc/ld.so.conf and of the files that it includes."""
    directories: list[bytes] = []
    pending = [b"etc/ld.so.conf"]
    seen = 0
    while pending and seen < _MAX_INCLUDES:
        seen += 1
        path = pending.pop(0)
        for line in _read_text(view, path).splitlines():
            words = line.partition(b"#")[0].split()
            if words[:1] == [b"include"]:
                pending += [file for word in words[1:] for file in _included(view, path, word)]
            elif words and words[0].startswith(b"/"):
                directories.append(words[0].strip(b"/"))
    return directories


def _read_text(view: RootView, path: bytes) -> bytes:
    try:
        place = resolve(view, path, last=True)
    except UnresolvableError:
        return b""
    with opened(view, place) as descriptor:
        return b"" if descriptor is None else os.pread(descriptor, _MAX_CONFIGURATION, 0)


def _included(view: RootView, path: bytes, pattern: bytes) -> list[bytes]:
    if not pattern.startswith(b"/"):
        pattern = os.path.dirname(path) + b"/" + pattern
    directory, _, names = pattern.strip(b"/").rpartition(b"/")
    try:
        place = resolve(view, directory, last=True)
    except UnresolvableError:
        return []
    return [place + b"/" + name for name in view.names(place) if fnmatch.fnmatchcase(name, names)]
