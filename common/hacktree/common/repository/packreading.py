"""Reading packs that are here: what is in one, and whether it is sound."""

import hashlib
from collections import Counter
from collections.abc import Callable

import msgspec

from hacktree.common.delta.contents import TreeComparison, compare_trees
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.frame import FrameReader
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.pack import (
    MAX_SHARED,
    PackEntries,
    PackHead,
    check_sizes,
    decode_entries,
    frame_offsets,
    metas_context,
    read_metas,
)
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.streams import unpack_blob
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import MAX_TREE_SIZE, FileEntry
from hacktree.common.repository.packs import PackMissingError, pack_path, read_head
from hacktree.common.repository.repository import Repository


class Verification(msgspec.Struct):
    """Entries decoded and their bytes; `problems` says what was wrong.

    `stranded`: the old tree was pruned, so frames were hashed and not decoded.
    """

    entries: int = 0
    bytes: int = 0
    stranded: bool = False
    problems: list[str] = []


def summarise_pack(repository: Repository, edge: Edge) -> dict[str, int]:
    """Numbers about a pack's contents; entries by kind only if both its trees are here."""
    head = read_head(repository, edge)
    length = int(frame_offsets(head, edge.head_length)[-1])
    summary = {
        "frames": len(head.frames),
        "alternatives-bytes": length - edge.length,
        "trees-bytes": len(head.metas.data),
        "index-bytes": len(head.entries.data),
        "maps-bytes": len(head.shared.data),
    }
    if is_stranded(repository, edge):
        return summary
    comparison = compare_trees(repository.load_tree, edge.old, edge.new)
    entries = decode_entries(head, len(comparison.targets), len(comparison.bases))
    kinds = Counter(EntryKind(kind).name.lower() for kind in entries.kinds.tolist())
    summary["trees"] = len(comparison.metas)
    return summary | {f"{name}-entries": count for name, count in sorted(kinds.items())}


def is_stranded(repository: Repository, edge: Edge) -> bool:
    """Whether a tree that the pack joins was pruned here."""
    trees = [edge.new] if edge.old is None else [edge.old, edge.new]
    return not all(map(repository.has_meta, trees))


def verify_pack(
    repository: Repository, edge: Edge, progress: Callable[[int, int], None] | None
) -> Verification:
    """Decode everything in a pack, with bases from the repository. Memory: that of one frame."""
    result = Verification()
    if is_stranded(repository, edge):
        return _hash_only(repository, edge)
    try:
        head = read_head(repository, edge)
        comparison = compare_trees(repository.load_tree, edge.old, edge.new)
        old_trees = [repository.read_meta(i, MAX_TREE_SIZE) for i in comparison.old_trees]
        read_metas(head, set(comparison.old_trees), metas_context(old_trees))
        entries = decode_entries(head, len(comparison.targets), len(comparison.bases))
        check_sizes(head, entries, [comparison.sizes[target] for target in comparison.targets])
        shared = Shared.decode(unpack_blob(head.shared, MAX_SHARED))
    except (FormatError, PackMissingError) as error:
        result.problems.append(f"head: {error}")
        return result
    offsets = frame_offsets(head, edge.head_length).tolist()
    total = sum(info.decoded for info in head.frames)
    with pack_path(repository, edge.pack).open("rb") as stream:
        for number, info in enumerate(head.frames):
            stream.seek(offsets[number])
            data = stream.read(info.length)
            if hashlib.sha256(data).digest() != info.digest:
                result.problems.append(f"frame {number}: its sha256 differs from the head's")
                continue
            frame = _Frame(data, head, shared, entries, number)
            _verify_frame(repository, comparison, frame, result)
            if progress is not None:
                progress(result.bytes, total)
    return result


def _hash_only(repository: Repository, edge: Edge) -> Verification:
    result = Verification(stranded=True)
    try:
        head = read_head(repository, edge)
    except PackMissingError as error:
        result.problems.append(f"head: {error}")
        return result
    with pack_path(repository, edge.pack).open("rb") as stream:
        stream.seek(edge.head_length)
        for number, info in enumerate(head.frames):
            if hash_bytes(stream.read(info.length)) != info.digest:
                result.problems.append(f"frame {number}: its sha256 differs from the head's")
    return result


class _Frame:
    """One frame with the columns of its entries."""

    def __init__(
        self, data: bytes, head: PackHead, shared: Shared, entries: PackEntries, number: int
    ) -> None:
        start, end = (int(x) for x in entries.starts[number : number + 2])
        self.number = number
        self.data = data
        self.dictionary = head.dictionary
        self.shared = shared
        self.targets = entries.targets[start:end].tolist()
        self.bases = entries.bases[start:end].tolist()
        self.kinds = [EntryKind(kind) for kind in entries.kinds[start:end].tolist()]


def _verify_frame(
    repository: Repository, comparison: TreeComparison, frame: _Frame, result: Verification
) -> None:
    ids = [comparison.targets[target] for target in frame.targets]
    sizes = [comparison.sizes[target] for target in ids]
    try:
        reader = FrameReader(frame.data, frame.kinds, sizes, frame.dictionary, frame.shared)
    except FormatError as error:
        result.problems.append(f"frame {frame.number}: {error}")
        return
    for index, (target, size) in enumerate(zip(ids, sizes, strict=True)):
        base = frame.bases[index]
        old = None if base < 0 else _content(repository, comparison, comparison.bases[base])
        output = bytearray(size)
        try:
            reader.decode(index, old, memoryview(output))
        except FormatError as error:
            result.problems.append(f"frame {frame.number}, {target.hex()}: {error}")
            continue
        if hashlib.sha256(output).digest() != target:
            result.problems.append(f"frame {frame.number}, {target.hex()}: decodes to other bytes")
        result.entries += 1
        result.bytes += size


def _content(repository: Repository, comparison: TreeComparison, content: ObjectId) -> bytes:
    entry = FileEntry(b"-", 0o644, 0, 0, (), content, comparison.sizes[content])
    return b"".join(repository.read_content(entry))
