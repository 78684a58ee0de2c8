"""What a build provides to packages that were made for other systems.

Shared libraries and their symbol versions are read from the build's files, and remembered by
content: the next build costs only what is new in it.
"""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.extensions.elfprovides import read_provides
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import METADATA_KEY, packages_from_metadata
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.repository import ObjectMissingError, Repository

CACHE: Final = "elf-provides"
"""In the repository's `state/`; may be deleted at any time."""

_MAX_CACHED: Final = 60_000
"""Contents in the cache; a desktop has some 3,000 libraries."""

_MAX_CACHE_SIZE: Final = 64 << 20
_MAX_ACCOUNTS: Final = 1 << 20
_LIBRARY: Final = re.compile(rb"\.so(?:\.|\Z)")
_LOADER: Final = re.compile(r"ld-linux[-.\w]*\.so\.\d+\(\)")
_PYTHON: Final = re.compile(rb"python(3\.\d{1,3})")
_LSB_MARKS: Final = (b"usr/bin/lsb_release", b"lib64/ld-lsb-x86-64.so.3")
_ACCOUNT: Final = re.compile(r"([a-z_][a-z0-9_.-]*):", re.ASCII)

Provides = dict[str, str]
"""Names of what is provided, each with its version or ""."""


class Library(msgspec.Struct, frozen=True):
    """A shared library of a build: its file's name, and what it provides, the soname first."""

    file: str
    provides: tuple[str, ...]


class _Cache(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    contents: dict[bytes, tuple[str, ...]]


def find_libraries(view: TreeView) -> list[Library]:
    """The shared libraries of a build, wherever they lie. Only names with `.so` are looked into."""
    cache = Path(view.repository.state / CACHE)
    known = _read_cache(cache)
    used: dict[bytes, tuple[str, ...]] = {}
    libraries = []
    for entry in view.files():
        if not _LIBRARY.search(entry.name) or not entry.size:
            continue
        key = bytes(entry.id)
        provides = used.get(key, known.get(key))
        if provides is None:
            provides = _read(view.repository, entry)
        used[key] = provides
        if provides:
            libraries.append(Library(os.fsdecode(entry.name), provides))
    if used.keys() - known.keys():
        kept = {**known, **used} if len(known) + len(used) <= _MAX_CACHED else used
        write_durably(cache, msgspec.msgpack.encode(_Cache(1, kept)))
    return libraries


def _read(repository: Repository, entry: FileEntry) -> tuple[str, ...]:
    try:
        return read_provides(repository.content_path(entry))
    except FileNotFoundError:
        raise ObjectMissingError("the content", entry.id) from None


def _read_cache(path: Path) -> dict[bytes, tuple[str, ...]]:
    """What earlier scans found; a cache that is missing or damaged is empty."""
    try:
        with open(path, "rb") as stream:
            cache = msgspec.msgpack.decode(stream.read(_MAX_CACHE_SIZE), type=_Cache)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return cache.contents if cache.version == 1 else {}


def rpm_provides(view: TreeView, libraries: list[Library]) -> Provides:
    """What a build provides in the terms of rpm, but for paths (`provided_paths`)."""
    provides = _packages(view)
    for library in libraries:
        provides.update(dict.fromkeys(library.provides, ""))
    if any(_LOADER.match(library.provides[0]) for library in libraries):
        provides["rtld(GNU_HASH)"] = ""
    if any(view.resolve(path)[1] is not None for path in _LSB_MARKS):
        provides["lsb"] = "4.1"
    python = _PYTHON.fullmatch(view.resolve(b"usr/bin/python3")[0].rpartition(b"/")[2])
    if python:
        provides["python(abi)"] = python[1].decode()
    for kind, path in (("user", b"etc/passwd"), ("group", b"etc/group")):
        accounts = (view.read(path, _MAX_ACCOUNTS) or b"").decode("latin-1").splitlines()
        for name in filter(None, map(_ACCOUNT.match, accounts)):
            provides[f"{kind}({name[1]})"] = ""
    return provides


def provided_paths(view: TreeView, names: list[str]) -> Provides:
    """Those of `names` that are paths and lead to something in the build, by any spelling."""
    paths = {name for name in names if name.startswith("/")}
    return {p: "" for p in sorted(paths) if view.resolve(os.fsencode(p))[1] is not None}


_GLIBC: Final = re.compile(r"libc\.so\.6\(GLIBC_(\d+)\.(\d+)\)")
_SONAME: Final = re.compile(r"([\w.+-]+?)(?:\.so\.([\w.+-]+)|-([\d.]+)\.so)\(\)")


def deb_provides(view: TreeView, libraries: list[Library]) -> Provides:
    """What a build provides in the terms of Debian: packages of libraries, named by the soname.

    `libfoo.so.1` is `libfoo1` (Debian Policy 8.1), since 2024 maybe `libfoo1t64`; its version is
    that in the file's name. libc6 has the version of its newest symbols.
    """
    provides: Provides = {}
    for library in libraries:
        soname = _SONAME.fullmatch(library.provides[0].removesuffix("(64bit)"))
        if soname is None:
            continue
        stem, major = soname[1], soname[2] or soname[3]
        dash = "-" if stem[-1].isdigit() else ""
        name = f"{stem}{dash}{major}".lower().replace("_", "-")
        file_version = library.file.removeprefix(f"{stem}.so.")
        version = file_version if re.fullmatch(r"\d[\w.+~]*", file_version) else major
        provides[name] = provides[f"{name}t64"] = version
        glibc = filter(None, map(_GLIBC.match, library.provides))
        newest = max(((int(found[1]), int(found[2])) for found in glibc), default=None)
        if newest:
            provides["libc6"] = f"{newest[0]}.{newest[1]}"
    return {**provides, **_packages(view)}


def _packages(view: TreeView) -> Provides:
    """The packages that the build says it was made of."""
    try:
        packages = packages_from_metadata(view.commit.metadata.get(METADATA_KEY, []))
    except FormatError:
        return {}
    return {package.name: package.version for package in packages}
