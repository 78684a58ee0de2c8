"""Which files of an archive, besides its objects, a backup consists of.

Those that change, and those that are sealed, being named by their hash. Paths are relative to the
repository.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hacktree.common.repository.durable import TEMPORARY_SUFFIX
from hacktree.common.repository.repository import Repository

_PINS: Final = ("state/pins", "state/leases")
_REFS: Final = "refs"
_TRUST: Final = "trust"
_TIMESTAMP: Final = Path("trust/timestamp.json")
_KEYS: Final = "state/trust"
_PUBLISHED: Final = ("branches", "graph", "packs")
_CONFIGURATION: Final = (Path("config.toml"), Path("server.toml"))
_LOGS: Final = "state/qa/logs"
_SEALED: Final = re.compile(r"[0-9a-f]{64}")


def changing_files(repository: Repository) -> Iterator[Path]:
    """Pins, leases, signatures, refs, tails and the configuration, in the order to read them in.

    Made as it is asked for: a tail is listed after the refs were read. The timestamp comes before
    what it leads to, and before the refs: a ref may be ahead of its signature, not behind.
    """
    for folder in _PINS:
        yield from _files(repository, folder)
    if (repository.path / _TIMESTAMP).exists():
        yield _TIMESTAMP
    yield from (path for path in _files(repository, _TRUST) if path != _TIMESTAMP)
    yield from (path for path in _files(repository, _KEYS) if path.suffix == ".pem")
    yield from _files(repository, _REFS)
    for folder in _PUBLISHED:
        yield from (path for path in _files(repository, folder) if not _is_sealed(path))
    yield from (path for path in _CONFIGURATION if (repository.path / path).exists())


def sealed_files(repository: Repository) -> Iterator[Path]:
    """History pages, segments of the graph, packs, and logs of verdicts: they never change."""
    for folder in (*_PUBLISHED, _LOGS):
        yield from (path for path in _files(repository, folder) if _is_sealed(path))


def is_signature(path: Path) -> bool:
    """Whether the path is that of signed metadata, which is current as long as a timestamp is."""
    return path.parts[0] == _TRUST


def is_ref(path: Path) -> bool:
    """Whether the path is that of a ref."""
    return path.parts[0] == _REFS


def _is_sealed(path: Path) -> bool:
    return _SEALED.fullmatch(path.name) is not None


def _files(repository: Repository, folder: str) -> Iterator[Path]:
    for directory, _, names in os.walk(repository.path / folder):
        below = Path(directory).relative_to(repository.path)
        for name in sorted(names):
            if not (name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)):
                yield below / name
