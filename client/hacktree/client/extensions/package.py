"""A package file, of either kind, as far as installing it concerns us."""

import os
import re
import stat
from pathlib import Path
from typing import Final, Literal

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.packages import Package

Kind = Literal["rpm", "deb"]

ANY_ARCHITECTURE: Final = frozenset({"noarch", "all"})

MAX_FILES: Final = 500_000
"""Paths in one package."""

# Part of a file's name, and an argument of rpm and dpkg: neither a path, hidden nor an option.
_NAME: Final = re.compile(r"[^/.-][^/]*")


class BadPackageError(UserError):
    """The file is no package, or one that is damaged."""


class PackedFile(msgspec.Struct, frozen=True):
    """What a package puts at `path` (relative, no leading '/'): `mode` with the type, as in stat.

    `digest`: the sha256 of a regular file; empty if the package doesn't say. `target`: of a
    symbolic link. `owner` and `group` are names.
    """

    path: bytes
    mode: int
    digest: bytes = b""
    target: bytes = b""
    owner: str = "root"
    group: str = "root"

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


class PackageFile(msgspec.Struct, frozen=True):
    """A package file: what it is, what it brings and what it needs, by the names of its kind."""

    file: Path
    kind: Kind
    package: Package
    files: tuple[PackedFile, ...]
    requires: tuple[str, ...]
    control: str = ""
    """Of a deb: its control paragraph."""

    def __post_init__(self) -> None:
        for text in (self.package.name, self.package.architecture):
            if not _NAME.fullmatch(text):
                raise BadPackageError(f"{self.file}: no package can be called {text!r}")

    def __str__(self) -> str:
        package = self.package
        return f"{package.name} {package.version} ({package.architecture})"

    def replaces(self, other: "PackageFile") -> bool:
        """Whether both can't be installed together, being versions of one package."""
        mine, its = self.package, other.package
        same = mine.architecture == its.architecture
        any_architecture = {mine.architecture, its.architecture} & ANY_ARCHITECTURE
        return (
            self.kind == other.kind and mine.name == its.name and (same or bool(any_architecture))
        )


def packed_path(path: bytes, package: Path) -> bytes:
    """A path of a package as a relative one; raises `BadPackageError` for one that climbs."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in path or len(path) > 4096:
        raise BadPackageError(f"{package}: it names the path {os.fsdecode(path[:200])!r}")
    return b"/".join(parts)
