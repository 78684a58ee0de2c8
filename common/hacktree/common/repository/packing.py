"""Making a pack: what is new in one tree against another, entry by entry, frame by frame.

Plan (compare, pair, learn what the entries share), encode every object in supervised processes, put
entries into frames, write head and frames into one file, publish. What fails on the way becomes a
whole object; a pack never fails for one file. docs/architecture.md, "Life of a pack".
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from hacktree.common.delta.btf import learn
from hacktree.common.delta.contents import TreeComparison, compare_trees
from hacktree.common.delta.elf import U8, NotElfError, parse_elf
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.pack import (
    FrameInfo,
    PackEntries,
    PackHead,
    encode_entries,
    encode_head,
    metas_context,
    pack_metas,
)
from hacktree.common.delta.pairing import Place, pair_contents
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.streams import pack_blob
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import MAX_TREE_SIZE, FileEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.encoder_process import (
    Answer,
    Content,
    EntryDone,
    EntryJob,
    FrameDone,
    FrameJob,
)
from hacktree.common.repository.encoders import EncoderPool, Task
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.packs import publish_pack, require_archive
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import locked_staging

FRAME_ENTRIES: Final = 64
FRAME_BYTES: Final = 1 << 20
ALONE_BYTES: Final = 256 << 10
"""A frame's entries, their compressed bytes, and what an entry is that stands alone."""

_MODULE: Final = b".ko"
_FEW_MODULES: Final = 16
"""Fewer modules than this are not worth a map of their kernel's types."""

Progress = Callable[[str, int, int], None]
"""Told the step, and how many bytes of how many it has done."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """A pack that was made; `degraded` names the paths that are whole objects for a failure."""

    edge: Edge
    frames: int
    kinds: dict[str, int]
    degraded: list[str]


@dataclass(slots=True)
class _Object:
    """One target on its way into the pack."""

    ordinal: int
    id: ObjectId
    size: int
    path: bytes
    base: int
    spill: Path
    kind: int = 0
    estimate: int = 0
    cost: int = 0
    failure: str = ""


@dataclass(slots=True)
class _Frame:
    objects: list[_Object] = field(default_factory=list)
    estimate: int = 0
    info: FrameInfo | None = None


def make_pack(
    repository: Repository,
    old: ObjectId | None,
    new: ObjectId,
    *,
    jobs: int,
    progress: Progress | None = None,
) -> PackReport:
    """Make and publish the pack from tree `old` to tree `new`, both of which are here."""
    require_archive(repository)
    report = progress or (lambda step, done, total: None)
    # Shared, so that no prune deletes what is being read.
    with (
        repository.lock(LockKind.SHARED),
        locked_staging(repository, f"pack-{new.hex()[:16]}") as scratch,
    ):
        try:
            return _make(repository, scratch, old, new, jobs, report)
        finally:
            shutil.rmtree(scratch)


def _make(
    repository: Repository,
    scratch: Path,
    old: ObjectId | None,
    new: ObjectId,
    jobs: int,
    report: Progress,
) -> PackReport:
    comparison = compare_trees(repository.load_tree, old, new)
    objects = _plan(repository, scratch, comparison, old, new)
    shared = _learn(repository, comparison, objects)
    (scratch / "shared").write_bytes(shared.encode())
    pool = EncoderPool(jobs, [str(repository.path), str(scratch / "shared")])
    _encode(pool, comparison, objects, report)
    frames = _arrange(objects)
    _compress(pool, scratch, frames, report)
    staged, edge = _write(repository, scratch, comparison, shared, frames, old, new)
    publish_pack(repository, staged, edge)
    kinds = [EntryKind(item.kind).name.lower() for item in objects]
    return PackReport(
        edge,
        len(frames),
        {name: kinds.count(name) for name in sorted(set(kinds))},
        [
            f"/{item.path.decode('utf-8', 'replace')}: {item.failure}"
            for item in objects
            if item.failure
        ],
    )


def _places(
    repository: Repository, root: ObjectId, numbers: dict[ObjectId, int]
) -> Iterator[Place]:
    """The paths of the numbered contents."""
    for path, entry in walk_tree(repository.load_tree, root):
        if isinstance(entry, FileEntry) and entry.id in numbers:
            yield Place(path, numbers[entry.id], entry.size)


def _plan(
    repository: Repository,
    scratch: Path,
    comparison: TreeComparison,
    old: ObjectId | None,
    new: ObjectId,
) -> list[_Object]:
    """Every target with its base's ordinal (-1: none), in the order of their paths."""
    bases = {content: number for number, content in enumerate(comparison.bases)}
    targets = {content: number for number, content in enumerate(comparison.targets)}
    there = list(_places(repository, new, targets))
    here = list(_places(repository, old, bases)) if old is not None else []
    pairs = pair_contents(here, there)
    first = {place.content: place.path for place in reversed(there)}
    objects = [
        _Object(
            ordinal,
            content,
            comparison.sizes[content],
            first[ordinal],
            pairs.get(ordinal, -1),
            scratch / f"{ordinal}.entry",
        )
        for content, ordinal in targets.items()
    ]
    return sorted(objects, key=lambda item: item.path)


def _learn(
    repository: Repository, comparison: TreeComparison, objects: Sequence[_Object]
) -> Shared:
    """Where the types of a rebuilt kernel went, from its modules."""
    modules = [item for item in objects if item.path.endswith(_MODULE) and item.base >= 0]
    if len(modules) < _FEW_MODULES:
        return Shared()

    def sections(item: _Object) -> tuple[U8, U8] | None:
        base = comparison.bases[item.base]
        pair = (base, comparison.sizes[base]), (item.id, item.size)
        old, new = (_type_section(repository, *content) for content in pair)
        return None if old is None or new is None else (old, new)

    with ThreadPoolExecutor(2, "types") as executor:
        return Shared(learn(pair for pair in executor.map(sections, modules) if pair is not None))


def _type_section(repository: Repository, content: ObjectId, size: int) -> U8 | None:
    entry = FileEntry(b"-", 0o644, 0, 0, (), content, size)
    data = np.frombuffer(b"".join(repository.read_content(entry)), np.uint8)
    try:
        section = parse_elf(data).section(b".BTF")
    except NotElfError:
        return None
    return None if section is None else data[section.offset : section.end].copy()


def _encode(
    pool: EncoderPool, comparison: TreeComparison, objects: Sequence[_Object], report: Progress
) -> None:
    """Fill in kind, estimate and cost of every object; the largest first, so none ends alone."""
    total = sum(item.size for item in objects)
    done, lock = 0, threading.Lock()
    again: list[_Object] = []

    def task(item: _Object, base: int) -> Task:
        source = None
        if base >= 0:
            base_id = comparison.bases[base]
            source = Content(base_id, comparison.sizes[base_id])

        def finish(answer: Answer) -> None:
            nonlocal done
            with lock:
                if isinstance(answer, EntryDone):
                    item.kind, item.estimate, item.cost = answer.kind, answer.estimate, answer.cost
                    if item.kind == EntryKind.FULL:
                        item.base = -1
                else:
                    item.failure = getattr(answer, "reason", "no entry")
                    again.append(item)
                done += item.size
                report("encoding", min(done, total), total)

        job = EntryJob(Content(item.id, item.size), source, str(item.spill))
        return Task(job, item.size + (source.size if source else 0), finish)

    ordered = sorted(objects, key=lambda item: (-item.size, item.ordinal))
    pool.run([task(item, item.base) for item in ordered])
    # What failed as a delta is tried once more as a whole; what fails again stays out of the pack.
    failed, again = again, []
    for item in failed:
        item.base = -1
    pool.run([task(item, -1) for item in failed])


def _arrange(objects: Sequence[_Object]) -> list[_Frame]:
    """Entries by path into frames, so that a directory's stand together; large ones alone."""
    frames: list[_Frame] = []
    current = _Frame()
    for item in objects:
        if not item.spill.exists():
            continue
        if item.estimate > ALONE_BYTES:
            frames.append(_Frame([item], item.estimate))
            continue
        full = len(current.objects) == FRAME_ENTRIES
        if current.objects and (full or current.estimate + item.estimate > FRAME_BYTES):
            frames.append(current)
            current = _Frame()
        current.objects.append(item)
        current.estimate += item.estimate
    return [*frames, current] if current.objects else frames


def _compress(pool: EncoderPool, scratch: Path, frames: Sequence[_Frame], report: Progress) -> None:
    total = sum(frame.estimate for frame in frames)
    done, lock = 0, threading.Lock()

    def task(number: int, frame: _Frame) -> Task:
        def finish(answer: Answer) -> None:
            nonlocal done
            with lock:
                if isinstance(answer, FrameDone):
                    frame.info = FrameInfo(
                        answer.length,
                        ObjectId(answer.digest),
                        sum(item.size for item in frame.objects),
                        sum(item.cost for item in frame.objects),
                    )
                else:
                    for item in frame.objects:
                        item.failure = getattr(answer, "reason", "no frame")
                done += frame.estimate
                report("compressing", done, total)

        spills = [str(item.spill) for item in frame.objects]
        size = sum(item.size for item in frame.objects)
        return Task(FrameJob(spills, str(scratch / f"{number}.frame")), size, finish)

    numbered = sorted(enumerate(frames), key=lambda pair: -pair[1].estimate)
    pool.run([task(number, frame) for number, frame in numbered])


def _write(
    repository: Repository,
    scratch: Path,
    comparison: TreeComparison,
    shared: Shared,
    frames: Sequence[_Frame],
    old: ObjectId | None,
    new: ObjectId,
) -> tuple[Path, Edge]:
    """Head and frames in one file."""
    made = [(number, frame) for number, frame in enumerate(frames) if frame.info is not None]
    objects = [item for _, frame in made for item in frame.objects]
    entries = PackEntries(
        counts=np.array([len(frame.objects) for _, frame in made], np.int64),
        targets=np.array([item.ordinal for item in objects], np.int64),
        bases=np.array([item.base for item in objects], np.int64),
        kinds=np.array([item.kind for item in objects], np.int64),
    )
    infos = tuple(frame.info for _, frame in made if frame.info is not None)
    head = encode_head(_head(repository, comparison, shared, entries, infos, old, new))
    staged = scratch / "pack"
    with staged.open("wb") as output:
        output.write(head)
        for number, _ in made:
            with (scratch / f"{number}.frame").open("rb") as frame:
                shutil.copyfileobj(frame, output, 1 << 20)
    return staged, Edge(
        old,
        new,
        hash_bytes(head),
        len(head),
        len(head) + sum(info.length for info in infos),
        len(objects),
        sum(info.decoded for info in infos),
        sum(info.cost for info in infos) // 1000,
    )


def _head(
    repository: Repository,
    comparison: TreeComparison,
    shared: Shared,
    entries: PackEntries,
    infos: tuple[FrameInfo, ...],
    old: ObjectId | None,
    new: ObjectId,
) -> PackHead:
    context = metas_context([repository.read_meta(i, MAX_TREE_SIZE) for i in comparison.old_trees])
    metas = [repository.read_meta(i, MAX_TREE_SIZE) for i in comparison.metas]
    root = len(repository.read_meta(new, MAX_TREE_SIZE))
    return PackHead(
        1,
        old or b"",
        new,
        root,
        b"",
        pack_blob(shared.encode()),
        infos,
        pack_blob(encode_entries(entries)),
        pack_metas(metas, context),
    )
