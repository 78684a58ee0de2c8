"""Bundles: what a machine without a network needs to get from builds it has to another one.

A bundle is one file that holds a small part of a published repository: a ref, its commit, a graph
of few edges, their packs, and the contents that no pack has. It is read as any other remote is, so
it needs and gets no more trust. docs/format.md, "Bundle".
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.delta.contents import compare_trees, contents
from hacktree.common.delta.graph import Edge, Segment, encode_segment
from hacktree.common.delta.route import find_routes
from hacktree.common.errors import UserError
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.objectnames import archive_name, meta_name
from hacktree.common.repository.packs import list_edges, pack_path, require_archive
from hacktree.common.repository.repository import Repository

MAGIC: Final = b"hacktree bundle\n"
MAX_INDEX: Final = 32 << 20
"""Bytes of the list of what a bundle holds."""


class BundleItem(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A published path and the bytes of its file, which follow those of the item before."""

    path: Annotated[str, Meta(min_length=1, max_length=300)]
    length: Annotated[int, Meta(ge=0, le=1 << 41)]


class BundleIndex(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="bundle"
):
    """What a bundle holds, of which branch."""

    version: Literal[1]
    branch: Annotated[str, Meta(min_length=1, max_length=200)]
    items: Annotated[tuple[BundleItem, ...], Meta(max_length=500_000)]


_CODEC = Codec(BundleIndex, "bundle's index", MAX_INDEX)


class Bundle(msgspec.Struct, frozen=True):
    """An open bundle: (offset, length) of each file in it."""

    branch: str
    places: dict[str, tuple[int, int]]


def read_bundle(stream: IO[bytes]) -> Bundle:
    """What the bundle in `stream` holds; raises `FormatError`."""
    size = stream.seek(0, 2)
    stream.seek(0)
    if stream.read(len(MAGIC)) != MAGIC:
        raise FormatError("not a hacktree bundle")
    length = int.from_bytes(stream.read(8), "little")
    if length > MAX_INDEX:
        raise FormatError(f"a bundle's index of {length} bytes exceeds {MAX_INDEX}")
    index = _CODEC.decode(stream.read(length))
    places: dict[str, tuple[int, int]] = {}
    offset = stream.tell()
    for item in index.items:
        places[item.path] = (offset, item.length)
        offset += item.length
    if offset != size or len(places) != len(index.items):
        raise FormatError("a bundle is cut short, too long, or names a file twice")
    return Bundle(index.branch, places)


class ExportedBundle(msgspec.Struct, frozen=True):
    """What an export wrote: packs, contents beside them, and bytes in all."""

    packs: int
    contents: int
    bytes: int


def export_bundle(
    repository: Repository, target: ObjectId, sources: Sequence[ObjectId], output: Path
) -> ExportedBundle:
    """Write what leads from each of the commits `sources` to the commit `target`.

    Raises `UserError` where no packs lead there. Memory: the trees of two builds.
    """
    require_archive(repository)
    commit = repository.load_commit(target)
    edges: dict[ObjectId, Edge] = {}
    missing: dict[ObjectId, None] = {}
    for source in sources:
        start = repository.load_commit(source).root.id
        if start == commit.root.id:
            continue
        route = _find_route(repository, source, start, commit.root.id)
        edges.update((edge.pack, edge) for edge in route)
        missing.update(dict.fromkeys(_beside(repository, start, commit.root.id, route)))
    paths = {f"objects/{meta_name(target)}": repository.objects / meta_name(target)}
    for pack in edges:
        paths[f"packs/{pack.hex()}"] = pack_path(repository, pack)
    for name in missing:
        paths[f"objects/{archive_name(name)}"] = repository.objects / archive_name(name)
    data = {
        f"refs/{commit.branch}": f"{target.hex()}\n".encode(),
        "graph/tail": encode_segment(Segment(tuple(edges.values()), None)),
    }
    size = _write(output, commit.branch, data, paths)
    return ExportedBundle(len(edges), len(missing), size)


def _find_route(
    repository: Repository, source: ObjectId, start: ObjectId, tree: ObjectId
) -> tuple[Edge, ...]:
    routes = find_routes(list_edges(repository), [start], tree, lambda edge: float(edge.length))
    if not routes:
        raise UserError(
            f"no packs lead from {source.hex()[:16]} to that build",
            hint=f"hacktree delta generate --from {source.hex()[:16]} --to REV, then again.",
        )
    return routes[0].edges


def _beside(
    repository: Repository, start: ObjectId, tree: ObjectId, route: Sequence[Edge]
) -> list[ObjectId]:
    """Contents of `tree` that neither `start` nor a pack of the route has."""
    known = set(contents(repository.load_tree, start))
    for edge in route:
        known.update(compare_trees(repository.load_tree, edge.old, edge.new).targets)
    return [name for name in contents(repository.load_tree, tree) if name not in known]


def _write(output: Path, branch: str, data: dict[str, bytes], paths: dict[str, Path]) -> int:
    items = [BundleItem(path, len(content)) for path, content in data.items()]
    items += [BundleItem(path, file.stat().st_size) for path, file in paths.items()]
    index = _CODEC.encode(BundleIndex(1, branch, tuple(items)))
    with output.open("wb") as stream:
        stream.write(MAGIC + len(index).to_bytes(8, "little") + index)
        stream.write(b"".join(data.values()))
        for file in paths.values():
            with file.open("rb") as reader:
                shutil.copyfileobj(reader, stream, 1 << 20)
        return stream.tell()
