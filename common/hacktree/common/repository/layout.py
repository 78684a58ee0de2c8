"""Where things are in a repository directory, and the `format` file that says what it is."""

import enum
import os
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import CorruptError, UserError
from hacktree.common.repository.durable import sync_directory, write_durably

FORMAT_VERSION: Final = 1
KNOWN_FEATURES: Final[frozenset[str]] = frozenset()


class Mode(enum.Enum):
    """How content is stored. docs/format.md, "The repository on disk"."""

    ARCHIVE = "archive"
    BARE = "bare"
    BARE_USER = "bare-user"


class NotARepositoryError(UserError):
    """The directory holds no repository."""


class UnsupportedRepositoryError(UserError):
    """The repository needs a newer hacktree."""


class Format(msgspec.Struct, frozen=True):
    """What the `format` file says."""

    mode: Mode


class _FormatFile(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    mode: str
    requires: list[str] = []


def read_format(repository: Path) -> Format:
    """Read `format`; raises `NotARepositoryError`, `UnsupportedRepositoryError`, `CorruptError`."""
    path = repository / "format"
    try:
        text = path.read_bytes()[:4096]
    except (FileNotFoundError, NotADirectoryError):
        raise NotARepositoryError(
            f"{repository} is not a hacktree repository",
            hint=f"Make one: hacktree --repo {repository} init --mode archive",
        ) from None
    try:
        fields = msgspec.convert(tomllib.loads(text.decode()), _FormatFile)
    except ValueError as error:
        raise CorruptError(f"{path} is damaged: {error}") from error
    unknown = sorted(set(fields.requires) - KNOWN_FEATURES)
    if fields.version != FORMAT_VERSION or unknown:
        what = f"version {fields.version}" if fields.version != FORMAT_VERSION else f"{unknown}"
        raise UnsupportedRepositoryError(
            f"{repository} needs a newer hacktree (format {what})",
            hint="Upgrade hacktree.",
        )
    try:
        return Format(Mode(fields.mode))
    except ValueError:
        raise CorruptError(f"{path}: unknown mode {fields.mode!r}") from None


def init_repository(repository: Path, mode: Mode) -> None:
    """Create an empty repository; doing it again with the same mode changes nothing.

    `format` is written last, so a directory with one is complete. An archive is world-readable but
    for its private parts; a bare repository is private altogether, since it holds setuid files of
    every version ever deployed.
    """
    if (repository / "format").exists():
        existing = read_format(repository).mode
        if existing is not mode:
            raise UserError(f"{repository} is already a repository in {existing.value} mode")
        return
    public = 0o755 if mode is Mode.ARCHIVE else 0o700
    _make_directory(repository, public)
    for name in ("objects", "refs"):
        _make_directory(repository / name, public)
    if mode is Mode.ARCHIVE:
        for name in ("branches", "packs", "graph"):
            _make_directory(repository / name, public)
    for name in ("tmp", "state"):
        _make_directory(repository / name, 0o700)
    lock = os.open(repository / "lock", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    os.close(lock)
    sync_directory(repository)
    text = f'version = {FORMAT_VERSION}\nmode = "{mode.value}"\nrequires = []\n'
    write_durably(repository / "format", text.encode(), mode=public & 0o644)
    sync_directory(repository.parent)


def _make_directory(path: Path, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
