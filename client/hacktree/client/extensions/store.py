"""The packages that are installed on every root: files in `<sysroot>/etc/hacktree/extensions.d`.

Beside a package FILE there may be FILE.toml, which says what it may replace and what is taken for
granted. Whoever can write here decides what runs as root, so others' files are refused.
"""

import fnmatch
import hashlib
import os
import re
import secrets
import stat
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Final

import msgspec
import tomli_w

from hacktree.client.extensions.debfile import read_deb
from hacktree.client.extensions.package import BadPackageError, PackageFile
from hacktree.client.extensions.programs import ask
from hacktree.client.extensions.provides import Provides
from hacktree.client.extensions.rpmfile import read_rpm
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import UserError
from hacktree.common.repository.durable import (
    TEMPORARY_SUFFIX,
    make_directories,
    publish_file,
    remove_durably,
    sync_directory,
    write_durably,
)

EXTENSIONS: Final = Path("etc/hacktree/extensions.d")
"""Relative to the sysroot."""

MAX_PACKAGE_SIZE: Final = 4 << 30
MAX_EXTENSIONS: Final = 1000

_READERS: Final = {".rpm": read_rpm, ".deb": read_deb}
_OPTIONS: Final = ".toml"
_MAX_OPTIONS: Final = 1 << 20
_ASSUMED: Final = re.compile(r"([!-<>-~]{1,255})(?:=([!-~]{1,255}))?")


class ExtensionError(UserError):
    """An extension that can't be used, or that isn't there."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`replace`: `fnmatch` patterns of paths of the build that the package may replace, as layers
    have them. `assume`: NAME or NAME=VERSION, what it needs and the person says is there.
    """

    replace: tuple[str, ...] = ()
    assume: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.assume:
            if not _ASSUMED.fullmatch(name):
                raise ValueError(f"not NAME or NAME=VERSION: {name!r}")

    def may_replace(self, path: str) -> bool:
        """Whether the build's `path` (relative) may be replaced: it or a directory above it."""
        parts = path.split("/")
        return any(
            fnmatch.fnmatchcase("/".join(parts[:length]), pattern.strip("/"))
            for pattern in self.replace
            for length in range(1, len(parts) + 1)
        )

    def joined_with(self, other: "Options") -> "Options":
        """What either allows."""
        return Options(
            tuple(dict.fromkeys(self.replace + other.replace)),
            tuple(dict.fromkeys(self.assume + other.assume)),
        )

    @property
    def assumed(self) -> Provides:
        """`assume` as names and versions."""
        found = (_ASSUMED.fullmatch(name) for name in self.assume)
        return {match[1]: match[2] or "" for match in found if match}


class Stored(msgspec.Struct, frozen=True):
    """A package file of this machine's, not yet looked into: `digest` is its sha256."""

    file: Path
    options: Options
    digest: bytes


class Extension(msgspec.Struct, frozen=True):
    """A package of this machine's."""

    package: PackageFile
    options: Options

    @property
    def name(self) -> str:
        """What people call it."""
        return self.package.package.name


def list_stored(sysroot: Sysroot) -> list[Stored]:
    """The package files, by name, hashed and not opened. Raises `UserError`: not ours, too many."""
    directory = sysroot.path / EXTENSIONS
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    _refuse_strangers(directory)
    files = [directory / name for name in names if _is_package(name)]
    if len(files) > MAX_EXTENSIONS:
        raise ExtensionError(f"{directory}: more than {MAX_EXTENSIONS} packages")
    return [_hash(file) for file in files]


def list_extensions(sysroot: Sysroot) -> list[Extension]:
    """What the package files are, by kind and name. Raises `UserError`: damaged, twice there."""
    return _without_versions([_open(one) for one in list_stored(sysroot)])


def open_stored(stored: list[Stored]) -> list[Extension]:
    """Look into the files; as `list_extensions`. Also raises for a file that is no more the one
    that was hashed.
    """
    loaded = [_open(one) for one in stored]
    for one in stored:
        if _hash(one.file) != one:
            raise ExtensionError(f"{one.file} changed meanwhile", hint="Run the command again.")
    return _without_versions(loaded)


def _without_versions(loaded: list[Extension]) -> list[Extension]:
    """Sorted; refuses several versions of a package."""
    found = sorted(loaded, key=lambda e: (e.package.kind, e.name, e.package.file))
    for one, other in combinations(found, 2):
        if one.package.replaces(other.package):
            raise ExtensionError(
                f"two versions of {one.name}: {one.package.file.name}, {other.package.file.name}",
                hint=f"`hacktree extension remove {other.package.file.name}` drops one of them.",
            )
    return found


def _is_package(name: str) -> bool:
    return name.endswith(tuple(_READERS)) and not name.startswith(".")


def _hash(file: Path) -> Stored:
    _refuse_strangers(file)
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return Stored(file, _read_options(file), digest)


def _open(stored: Stored) -> Extension:
    try:
        return Extension(_read_package(stored.file, stored.file.suffix), stored.options)
    except BadPackageError as error:
        hint = f"`hacktree extension remove {stored.file.name}` drops it."
        raise BadPackageError(error.message, hint=hint) from error


def _refuse_strangers(path: Path) -> None:
    status = path.stat()
    regular = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    if not regular or status.st_size > MAX_PACKAGE_SIZE:
        raise ExtensionError(f"{path} is not a file of at most {MAX_PACKAGE_SIZE >> 30} GiB")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise ExtensionError(
            f"{path} can be written by others, and what it holds runs as root",
            hint=f"Make it belong to you and `chmod go-w` it, or delete it: {path}",
        )


def _read_options(file: Path) -> Options:
    path = file.with_name(file.name + _OPTIONS)
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_OPTIONS)
    except FileNotFoundError:
        return Options()
    _refuse_strangers(path)
    try:
        return msgspec.convert(tomllib.loads(data.decode()), Options)
    except ValueError as error:
        raise ExtensionError(f"{path}: {error}", hint="Mend or delete the file.") from error


def _read_package(file: Path, suffix: str) -> PackageFile:
    reader = _READERS.get(suffix)
    if reader is None:
        raise BadPackageError(f"{file}: its name ends neither with .rpm nor with .deb")
    return reader(file)


def add_extension(
    sysroot: Sysroot, file: Path, options: Options
) -> tuple[Extension, Extension | None]:
    """Copy a package in, instead of another version of it; returns both.

    It is checked first: every digest in it, and that its headers can be used. The caller holds the
    sysroot lock. Killed anywhere, the old package or the new one is there, with what it needs
    allowed. Raises `BadPackageError`; `ExtensionError` if another package's file has its name.
    """
    make_directories(sysroot.path, EXTENSIONS, mode=0o755)
    directory = sysroot.path / EXTENSIONS
    for leftover in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink()
    present = list_extensions(sysroot)
    copy = directory / f".{secrets.token_hex(4)}{file.suffix}{TEMPORARY_SUFFIX}"
    try:
        _copy(file, copy)
        package = _check(copy, file)
        name = f"{package.package.name}.{package.package.architecture}{file.suffix}"
        place = directory / name
        old = next((e for e in present if package.replaces(e.package)), None)
        if place.exists() and (old is None or old.package.file != place):
            raise ExtensionError(
                f"{place} holds another package",
                hint=f"Rename it, or drop it: hacktree extension remove {name}",
            )
        if old is None:
            write_options(place, options)
        else:
            _make_way(old, place, options)
        publish_file(copy, place)
    finally:
        copy.unlink(missing_ok=True)
    if old is not None:
        write_options(place, options)
    return Extension(msgspec.structs.replace(package, file=place), options), old


def _make_way(old: Extension, place: Path, options: Options) -> None:
    """Give the old package the new one's name, and both what either needs to be allowed.

    So the new one replaces it in one step: never are two versions there, nor none.
    """
    write_options(place, old.options.joined_with(options))
    if old.package.file != place:
        os.rename(old.package.file, place)
        sync_directory(place.parent)
        remove_durably(old.package.file.with_name(old.package.file.name + _OPTIONS))


def _copy(source: Path, place: Path) -> None:
    with open(source, "rb") as stream, open(place, "xb") as copy:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_PACKAGE_SIZE:
            raise BadPackageError(f"{source} is not a file of at most {MAX_PACKAGE_SIZE >> 30} GiB")
        while chunk := stream.read(1 << 20):
            copy.write(chunk)


def _check(copy: Path, source: Path) -> PackageFile:
    """Of the copy, which nobody changes meanwhile; messages name the source."""
    try:
        package = _read_package(copy, source.suffix)
    except BadPackageError as error:
        raise BadPackageError(error.message.replace(str(copy), str(source))) from error
    if package.kind == "rpm":
        status, said = ask(["rpm", "-K", "--nosignature", copy])
        if status:
            raise BadPackageError(f"{source}: damaged: {said.replace(str(copy), '').strip(' :')}")
    return package


def write_options(file: Path, options: Options) -> None:
    """Beside the package, which need not be there yet."""
    path = file.with_name(file.name + _OPTIONS)
    if options == Options():
        remove_durably(path)
    else:
        write_durably(path, tomli_w.dumps(msgspec.to_builtins(options)).encode(), mode=0o644)


def remove_stored(file: Path) -> None:
    """Delete the package, then its options. The caller holds the sysroot lock."""
    remove_durably(file)
    remove_durably(file.with_name(file.name + _OPTIONS))


def find_stored(sysroot: Sysroot, text: str) -> Path:
    """The file of the extension called `text`: NAME, NAME.ARCH or the file's name, so that one
    which is damaged is found, too. Raises `ExtensionError`.
    """
    stored = list_stored(sysroot)
    found = [one.file for one in stored if text in (one.file.name, one.file.stem)]
    if not found:
        found = [e.package.file for e in map(_open, stored) if e.name == text]
    if len(found) == 1:
        return found[0]
    problem = f"several extensions are called {text}" if found else f"no extension {text}"
    raise ExtensionError(problem, hint="`hacktree extension list` shows them, with their files.")
