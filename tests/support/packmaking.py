"""Packs made by hand: honest ones in milliseconds, and lying ones that no encoder would make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from hacktree.common.delta.codec import encode_delta
from hacktree.common.delta.contents import TreeComparison, compare_trees
from hacktree.common.delta.entry import EncodedEntry, EntryKind, encode_full
from hacktree.common.delta.frame import encode_frame
from hacktree.common.delta.graph import Edge, Segment, encode_segment
from hacktree.common.delta.pack import (
    FrameInfo,
    PackEntries,
    PackHead,
    encode_entries,
    encode_head,
    metas_context,
    pack_metas,
)
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.streams import pack_blob
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import MAX_TREE_SIZE, FileEntry
from hacktree.common.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Lies:
    """Where a pack departs from the truth; the defaults don't."""

    new: Callable[[ObjectId, bytes], bytes] = lambda name, content: content
    frame: Callable[[bytes], bytes] = lambda data: data
    served: Callable[[bytes], bytes] = lambda data: data
    head: Callable[[PackHead], PackHead] = lambda head: head
    edge: Callable[[Edge], Edge] = lambda edge: edge
    per_frame: int = 2
    full: frozenset[ObjectId] = field(default=frozenset())


def publish_packs(
    repository: Repository,
    steps: Sequence[tuple[ObjectId | None, ObjectId]],
    lies: Lies | None = None,
) -> list[Edge]:
    """Make a pack for each pair of commits and write the graph that names them."""
    edges = [make_pack(repository, old, new, lies or Lies()) for old, new in steps]
    (repository.path / "graph").mkdir(exist_ok=True)
    segment = Segment(tuple(edges), None)
    (repository.path / "graph/tail").write_bytes(encode_segment(segment))
    return edges


def make_pack(repository: Repository, old: ObjectId | None, new: ObjectId, lies: Lies) -> Edge:
    """Write `packs/<name>`; returns what the graph has to say of it."""
    commit = repository.load_commit(new)
    old_tree = None if old is None else repository.load_commit(old).root.id
    trees = compare_trees(repository.load_tree, old_tree, commit.root.id)
    pairs = _pair_by_path(repository, trees, old_tree, commit.root.id)
    encoded = [_encode(repository, trees, name, pairs, lies) for name in trees.targets]
    frames, infos = [], []
    for start in range(0, len(encoded), lies.per_frame):
        some = encoded[start : start + lies.per_frame]
        data = lies.frame(encode_frame(some))
        decoded = sum(trees.sizes[name] for name in trees.targets[start : start + len(some)])
        frames.append(lies.served(data))
        infos.append(FrameInfo(len(data), hash_bytes(data), decoded, 100))
    head = lies.head(
        _head(
            repository,
            trees,
            commit.root.id,
            commit.root.size,
            old_tree,
            encoded,
            pairs,
            infos,
            lies,
        )
    )
    data = encode_head(head)
    name = hash_bytes(data)
    (repository.path / "packs").mkdir(exist_ok=True)
    Path(repository.path, "packs", name.hex()).write_bytes(data + b"".join(frames))
    return lies.edge(
        Edge(
            old_tree,
            commit.root.id,
            name,
            len(data),
            len(data) + sum(map(len, frames)),
            len(encoded),
            sum(trees.sizes[target] for target in trees.targets),
            1,
        )
    )


def content(repository: Repository, trees: TreeComparison, name: ObjectId) -> bytes:
    """The bytes of a content of an archive."""
    entry = FileEntry(b"-", 0o644, 0, 0, (), name, trees.sizes[name])
    return b"".join(repository.read_content(entry))


def _pair_by_path(
    repository: Repository, trees: TreeComparison, old: ObjectId | None, new: ObjectId
) -> dict[ObjectId, ObjectId]:
    from hacktree.common.objects.walk import walk_tree

    if old is None:
        return {}
    before = {p: e.id for p, e in walk_tree(repository.load_tree, old) if isinstance(e, FileEntry)}
    bases = set(trees.bases)
    return {
        entry.id: before[path]
        for path, entry in walk_tree(repository.load_tree, new)
        if isinstance(entry, FileEntry) and before.get(path) in bases
    }


def _encode(
    repository: Repository,
    trees: TreeComparison,
    name: ObjectId,
    pairs: dict[ObjectId, ObjectId],
    lies: Lies,
) -> EncodedEntry:
    data = lies.new(name, content(repository, trees, name))
    if name not in pairs:
        return encode_full(data)
    return encode_delta(content(repository, trees, pairs[name]), data, Shared())


def _head(
    repository: Repository,
    trees: TreeComparison,
    tree: ObjectId,
    size: int,
    old: ObjectId | None,
    encoded: Sequence[EncodedEntry],
    pairs: dict[ObjectId, ObjectId],
    infos: Sequence[FrameInfo],
    lies: Lies,
) -> PackHead:
    kinds = [entry.kind for entry in encoded]
    bases = [
        -1 if kind is EntryKind.FULL else trees.bases.index(pairs[name])
        for kind, name in zip(kinds, trees.targets, strict=True)
    ]
    counts = [min(lies.per_frame, len(encoded) - i) for i in range(0, len(encoded), lies.per_frame)]
    columns = PackEntries(
        np.array(counts, np.int64),
        np.arange(len(encoded), dtype=np.int64),
        np.array(bases, np.int64),
        np.array(kinds, np.int64),
    )
    context = metas_context([repository.read_meta(t, MAX_TREE_SIZE) for t in trees.old_trees])
    metas = [repository.read_meta(t, MAX_TREE_SIZE) for t in trees.metas]
    return PackHead(
        1,
        old or b"",
        tree,
        size,
        b"",
        pack_blob(Shared().encode()),
        tuple(infos),
        pack_blob(encode_entries(columns)),
        pack_metas(metas, context),
    )


def change(value: PackHead, **fields: object) -> PackHead:
    """The head with other fields."""
    return msgspec.structs.replace(value, **fields)


def change_edge(value: Edge, **fields: object) -> Edge:
    """The edge with other fields."""
    return msgspec.structs.replace(value, **fields)
