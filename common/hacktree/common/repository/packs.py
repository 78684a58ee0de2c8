"""The packs of an archive and the graph that names them. docs/format.md, "Packs" and "Graph".

Order of writing (invariants 1 and 2): a pack is synced and has its name before the graph names it;
a sealed segment before the tail that refers to it. Order of retiring: the graph first; the pack a
week later, so that a client that has read the graph still finds it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.delta.graph import (
    EMPTY_SEGMENT,
    Edge,
    GraphUpdate,
    Segment,
    add_edges,
    decode_segment,
)
from hacktree.common.delta.pack import PackHead, decode_head
from hacktree.common.errors import CorruptError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.durable import (
    make_directories,
    publish_file,
    replace_published,
    write_durably,
)
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.repository import Repository

RETIREMENT_SECONDS: Final = 7 * 86400.0
"""How long a pack stays after the graph stopped naming it."""

STRANDED_SECONDS: Final = 90 * 86400.0
"""How long a pack is kept whose old tree was pruned: testers may still be on it."""

_LOCK_SECONDS: Final = 60.0


class PackMissingError(CorruptError):
    """The graph names a pack that is not here, or a damaged one."""


def require_archive(repository: Repository) -> None:
    """Packs are made where builds are published; raises `UserError` elsewhere."""
    if repository.mode is not Mode.ARCHIVE:
        raise UserError(
            f"{repository.path} is a {repository.mode.value} repository: it publishes no packs",
            hint="Packs are made in the archive repository that clients pull from.",
        )


def pack_path(repository: Repository, name: ObjectId) -> Path:
    """The file of a pack."""
    return repository.path / "packs" / name.hex()


def list_edges(repository: Repository) -> list[Edge]:
    """The edges of the published graph, newest first; raises `CorruptError`."""
    edges: list[Edge] = []
    segment = _read_segment(repository, "tail")
    while segment is not None:
        edges.extend(segment.edges)
        segment = None if segment.older is None else _read_segment(repository, segment.older.hex())
    return edges


def find_pack(repository: Repository, digits: str) -> Edge:
    """The edge whose pack's name begins with `digits`; raises `UserError`."""
    found = [edge for edge in list_edges(repository) if edge.pack.hex().startswith(digits)]
    if len(found) != 1:
        what = "no pack" if not found else f"{len(found)} packs"
        raise UserError(f"{what} named {digits}", hint="`hacktree delta list` shows them.")
    return found[0]


def read_head(repository: Repository, edge: Edge) -> PackHead:
    """The head of a pack that the graph names; raises `PackMissingError`."""
    path = pack_path(repository, edge.pack)
    try:
        with path.open("rb") as stream:
            return decode_head(stream.read(edge.head_length), edge.pack)
    except (FileNotFoundError, FormatError) as error:
        raise PackMissingError(
            f"{path}: {error}", hint="`hacktree delta prune` drops it; generate it again."
        ) from error


def publish_pack(repository: Repository, staged: Path, edge: Edge) -> None:
    """Give the finished file `staged` its name, then let the graph name it.

    An edge between the same trees is replaced; its pack is retired. The graph is held throughout,
    so that nobody takes the pack for a retired one before it is named.
    """
    make_directories(repository.path, Path("packs"), mode=0o755)
    with _hold_graph(repository):
        publish_file(staged, pack_path(repository, edge.pack))
        edges = list_edges(repository)
        kept = [e for e in edges if (e.old, e.new) != (edge.old, edge.new) and e.pack != edge.pack]
        if kept == edges:
            _write_graph(repository, add_edges(_tail(repository), [edge]))
        else:
            _write_graph(repository, add_edges(EMPTY_SEGMENT, [edge, *kept]))


def stale_packs(repository: Repository, now: float, keep: float) -> list[ObjectId]:
    """Packs that nobody can use: their new tree is gone, or their file; or their old tree is, and
    they were made more than `keep` seconds before `now`.
    """
    return [edge.pack for edge in list_edges(repository) if _is_stale(repository, edge, now, keep)]


def _is_stale(repository: Repository, edge: Edge, now: float, keep: float) -> bool:
    try:
        made = pack_path(repository, edge.pack).stat().st_mtime
    except FileNotFoundError:
        return True
    if not repository.has_meta(edge.new):
        return True
    stranded = edge.old is not None and not repository.has_meta(edge.old)
    return stranded and now - made > keep


def retire_packs(repository: Repository, names: Sequence[ObjectId]) -> None:
    """Stop naming these packs; `delete_retired` removes them when nobody can want them."""
    with _hold_graph(repository):
        kept = [edge for edge in list_edges(repository) if edge.pack not in set(names)]
        _write_graph(repository, add_edges(EMPTY_SEGMENT, kept))


def delete_retired(repository: Repository, now: float, grace: float) -> list[str]:
    """Delete packs and segments that the graph has not named for `grace` seconds; their names.

    `now` in seconds since 1970. When a file was first seen unnamed is kept in `state/retired`.
    """
    with _hold_graph(repository):
        named = {edge.pack.hex() for edge in list_edges(repository)} | _segment_names(repository)
        present = {
            f"{folder}/{name}"
            for folder in ("packs", "graph")
            for name in _names(repository.path / folder)
            if name not in named and name != "tail"
        }
        record = _read_retired(repository)
        # A time in the future (the clock was set back) counts as now.
        seen = {name: min(record.get(name, now), now) for name in present}
        due = sorted(name for name, since in seen.items() if now - since >= grace)
        # The due ones stay on the record until they are gone, or a crash would renew their grace.
        _write_retired(repository, seen)
        for name in due:
            (repository.path / name).unlink(missing_ok=True)
        _write_retired(repository, {name: seen[name] for name in seen.keys() - set(due)})
    return due


def _read_segment(repository: Repository, name: str) -> Segment | None:
    path = repository.path / "graph" / name
    try:
        return decode_segment(path.read_bytes())
    except FileNotFoundError:
        if name == "tail":
            return None
        raise CorruptError(f"{path} is missing", hint=_REBUILD) from None
    except FormatError as error:
        raise CorruptError(f"{path} is damaged: {error}", hint=_REBUILD) from error


_REBUILD: Final = "Delete graph/ and generate the packs again: they are only hints."


def _tail(repository: Repository) -> Segment:
    return _read_segment(repository, "tail") or EMPTY_SEGMENT


def _segment_names(repository: Repository) -> set[str]:
    names = set()
    segment = _read_segment(repository, "tail")
    while segment is not None and segment.older is not None:
        names.add(segment.older.hex())
        segment = _read_segment(repository, segment.older.hex())
    return names


def _write_graph(repository: Repository, update: GraphUpdate) -> None:
    make_directories(repository.path, Path("graph"), mode=0o755)
    for name, data in update.sealed:
        write_durably(repository.path / "graph" / name.hex(), data, mode=0o644)
    replace_published(repository.path / "graph" / "tail", update.tail)


def _read_retired(repository: Repository) -> dict[str, float]:
    try:
        return msgspec.json.decode(
            (repository.state / "retired").read_bytes(), type=dict[str, float]
        )
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return {}  # Lost, the period of grace begins again.


def _write_retired(repository: Repository, seen: dict[str, float]) -> None:
    if seen != _read_retired(repository):
        write_durably(repository.state / "retired", msgspec.json.encode(dict(sorted(seen.items()))))


def _names(directory: Path) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.startswith(".")]
    except FileNotFoundError:
        return []


@contextmanager
def _hold_graph(repository: Repository) -> Iterator[None]:
    path = repository.state / "graph.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE, timeout=_LOCK_SECONDS):
        yield
