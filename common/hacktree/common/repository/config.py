"""`config.toml` of a repository: edited by its owner, read at every start."""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, field

from hacktree.common.errors import SpaceError, UserError

DEFAULT_ZSTD_LEVEL: Final = 6
"""Chosen in docs/adr/0003-compression-level.md."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?")
_UNITS: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


class PushConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What a server lets each token push: bytes and objects on disk and not yet published, pushes
    open at a time. `keep-hours`: how long a push that nobody goes on with stays.
    """

    max_bytes: str = "64GiB"
    max_objects: Annotated[int, Meta(ge=1)] = 1_000_000
    max_open: Annotated[int, Meta(ge=1, le=1000)] = 8
    keep_hours: Annotated[float, Meta(ge=0.1, le=10_000)] = 24.0

    def __post_init__(self) -> None:
        parse_size(self.max_bytes)


class RepositoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`min-free-space`: bytes ("500MB", "1GiB") that a write must leave free.

    `zstd-level`: compression of new content in archive mode, 1 to 19. `keep-unreachable-hours`: how
    long prune leaves what no branch reaches, so that a client in the middle of a pull finds it.
    `delta-cache`: bytes of encoded deltas that are kept for packs to come. `[push]`: see there.
    """

    min_free_space: str = "256MiB"
    zstd_level: int = DEFAULT_ZSTD_LEVEL
    keep_unreachable_hours: float = 24.0
    delta_cache: str = "4GiB"
    push: PushConfig = field(default_factory=PushConfig)

    def __post_init__(self) -> None:
        parse_size(self.min_free_space)
        parse_size(self.delta_cache)
        if not 1 <= self.zstd_level <= 19:
            raise ValueError("zstd-level is 1 to 19")


def read_config(repository: Path) -> RepositoryConfig:
    """The configuration, with defaults for what is absent; raises `UserError` naming the fault."""
    path = repository / "config.toml"
    try:
        text = path.read_text()
    except FileNotFoundError:
        return RepositoryConfig()
    try:
        return msgspec.convert(tomllib.loads(text), RepositoryConfig)
    except (ValueError, UserError) as error:
        raise UserError(f"{path}: {error}", hint="Mend or delete the file.") from error


def parse_size(text: str) -> int:
    """Bytes written as a number with an optional unit: 1000-based kB, 1024-based KiB."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"not a size: {text!r}", hint="Examples: 500MB, 1GiB, 1000000.")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** _UNITS[match[2]])


def format_size(count: float) -> str:
    """Bytes for a person: '1.5 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def require_space(directory: Path, needed: int, reserve: int) -> None:
    """Raise `SpaceError`, with the numbers, unless `needed` bytes leave `reserve` bytes free."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free - needed < reserve:
        raise SpaceError(
            f"not enough space at {directory}: {format_size(needed)} needed, "
            f"{format_size(free)} free, {format_size(reserve)} to be kept free",
            hint="Free space (hacktree prune, hacktree cleanup), or lower min-free-space in "
            "config.toml of the repository.",
        )
