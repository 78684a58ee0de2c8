"""Making a pack: what is new in one tree against another, entry by entry, frame by frame.

Plan (`packplan`), encode every object in supervised processes, put entries into frames, write head
and frames into one file, publish. What fails on the way becomes a whole object; a pack never fails
for one file. Nothing is locked while encoders work: a prune meanwhile costs the pack at most.
"""

import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.pack import (
    MAX_FRAME_LENGTH,
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
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import MAX_TREE_SIZE
from hacktree.common.repository.config import require_space
from hacktree.common.repository.deltacache import DeltaCache, open_cache, trim_cache
from hacktree.common.repository.encoder_process import (
    Answer,
    Choice,
    Content,
    EntryDone,
    EntryJob,
    FrameDone,
    FrameItem,
    FrameJob,
    read_frame,
)
from hacktree.common.repository.encoders import WORKER, EncoderPool, Limits
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.objectnames import archive_name
from hacktree.common.repository.packplan import PackPlan, Target, learn_maps, plan_pack
from hacktree.common.repository.packs import publish_pack, require_archive
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import locked_staging, remove_dead_staging

FRAME_ENTRIES: Final = 64
FRAME_BYTES: Final = 1 << 20
ALONE_BYTES: Final = 256 << 10
"""A frame's entries, their compressed bytes, and what an entry is that stands alone."""

_LIGHT_BYTES: Final = 1 << 10
_LIGHT_OBJECT: Final = 256 << 10
"""An entry is light that takes at most so many bytes for an object of at least so many."""

_OUTWEIGHED: Final = 4
_FRAME_COST: Final = 1 << 10
"""Light entries get a frame of their own where the others take so many times their bytes, and so
many more.
"""

_BEGUN_EARLY: Final = 4 << 20
"""Compressed bytes of an entry whose frame is begun before all entries are encoded."""

_LARGE_WHOLE: Final = 16 << 20
_HARDLY_SMALLER: Final = 0.97
"""A whole object of so many compressed bytes is packed if that makes it at least so much smaller
than its file in the archive: a request is nothing beside it, and the farm need not keep it twice.
"""
_NO_GAIN: Final = "hardly smaller than its file in the archive"
_LOCK_SECONDS: Final = 60.0
_ALL_BAD: Final = 16
"""So many failures before any success are no accident."""

Progress = Callable[[str, int, int], None]
"""Told the step, and how many bytes of how many it has done."""


class EncodersFailedError(HacktreeError):
    """No encoder does anything: the fault is not in the objects."""


class Encoders(msgspec.Struct, frozen=True):
    """How packs are encoded: so many processes of this command, within these limits."""

    jobs: int
    limits: Limits = msgspec.field(default_factory=Limits)
    command: tuple[str, ...] = WORKER


class PackReport(msgspec.Struct, frozen=True):
    """A pack that was made. `alternatives`: bytes of the frames at its end that the edge doesn't
    count. `kinds`: entries by kind. Both lists hold paths with a reason: `degraded` are whole
    objects for a failure, `left_out` are not in the pack at all.
    """

    edge: Edge
    frames: int
    alternatives: int
    kinds: dict[str, int]
    degraded: list[str]
    left_out: list[str]


class _Entry(msgspec.Struct, frozen=True):
    """An entry on its way into a frame; `made` is empty for a whole object."""

    target: Target
    choice: Choice
    number: int = 0
    made: str = ""

    @property
    def whole(self) -> "_Entry":
        """The same object as it is, if it is not that already."""
        return _Entry(self.target, Choice(EntryKind.FULL, self.choice.estimate, 0))

    @property
    def base(self) -> int:
        return -1 if self.choice.kind == EntryKind.FULL else self.target.base

    @property
    def is_light(self) -> bool:
        """Whether it gives a large object for few bytes."""
        return self.target.size >= _LIGHT_OBJECT and self.choice.estimate <= _LIGHT_BYTES

    @property
    def key(self) -> bytes:
        """What its part of a frame depends on."""
        parts = (self.target.id.hex(), self.choice.kind, self.base, Path(self.made).name)
        return repr(parts).encode()


class _Frame(msgspec.Struct, frozen=True):
    entries: list[_Entry]
    info: FrameInfo
    path: Path


def make_pack(
    repository: Repository,
    old: ObjectId | None,
    new: ObjectId,
    encoders: Encoders,
    progress: Progress | None = None,
) -> PackReport:
    """Make and publish the pack from tree `old` to tree `new`, both of which are here.

    Raises `BusyError` while another pack is made, `EncodersFailedError`, `SpaceError`.
    """
    require_archive(repository)
    with _only_packer(repository), _scratch(repository) as scratch:
        return _Packing(repository, scratch, old, new, encoders, progress).run()


def sweep_staging(repository: Repository) -> int:
    """Delete what killed processes staged for packs; returns how many directories."""
    return remove_dead_staging(repository, "pack-")


@contextmanager
def _only_packer(repository: Repository) -> Iterator[None]:
    """One pack at a time: it uses every core, and the cache has one owner."""
    path = repository.state / "packing.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE, timeout=_LOCK_SECONDS):
        yield


@contextmanager
def _scratch(repository: Repository) -> Iterator[Path]:
    sweep_staging(repository)
    with locked_staging(repository, f"pack-{secrets.token_hex(8)}") as directory:
        try:
            yield directory
        finally:
            shutil.rmtree(directory)


class _Packing:
    """One pack in the making."""

    def __init__(
        self,
        repository: Repository,
        scratch: Path,
        old: ObjectId | None,
        new: ObjectId,
        encoders: Encoders,
        progress: Progress | None,
    ) -> None:
        self._repository = repository
        self._scratch = scratch
        self._old = old
        self._new = new
        self._encoders = encoders
        self._progress = progress or (lambda step, done, total: None)
        self._degraded: dict[bytes, str] = {}
        self._left_out: dict[bytes, str] = {}
        self._succeeded = False
        self._early: dict[Path, Future[Answer]] = {}

    def run(self) -> PackReport:
        repository, encoders = self._repository, self._encoders
        plan = plan_pack(repository, self._old, self._new)
        shared = learn_maps(repository, plan, encoders.jobs)
        maps = shared.encode()
        (self._scratch / "maps").write_bytes(maps)
        cache = open_cache(repository, hash_bytes(maps))
        with EncoderPool(
            encoders.jobs,
            str(repository.path),
            str(self._scratch / "maps"),
            encoders.limits,
            command=encoders.command,
        ) as pool:
            choices = self._encode(pool, cache, plan)
            dear, plain, others = map(self._groups, part_entries(choices))
            counted, alternatives = self._compress(pool, cache, [*dear, *plain], others)
        staged, edge = self._write(plan, shared, counted, alternatives)
        with repository.lock(LockKind.SHARED):
            publish_pack(repository, staged, edge)
        trim_cache(repository)
        frames = [*counted, *alternatives]
        packed = {entry.target.path for frame in frames for entry in frame.entries}
        left_out = {path: why for path, why in self._left_out.items() if path not in packed}
        kinds = Counter(EntryKind(e.choice.kind).name.lower() for f in frames for e in f.entries)
        return PackReport(
            edge,
            len(frames),
            sum(frame.info.length for frame in alternatives),
            dict(sorted(kinds.items())),
            _reasons(self._degraded),
            _reasons(left_out),
        )

    def _encode(self, pool: EncoderPool, cache: DeltaCache, plan: PackPlan) -> list[list[_Entry]]:
        """The entries for every target, in the plan's order; the best that any client decodes
        first.
        """
        paired = [target for target in plan.targets if target.base >= 0]
        jobs: dict[Future[Answer], tuple[Target, str]] = {}
        # The largest first, so that in the end no core waits for long.
        for target in sorted(paired, key=lambda target: (-target.size, target.ordinal)):
            base = plan.comparison.bases[target.base]
            size = plan.comparison.sizes[base]
            made = str(cache.entry(base, target.id, uses_maps=target.uses_maps))
            seconds = pool.limits.seconds_for(size + target.size)
            content = Content(target.id, target.size)
            job = EntryJob(content, Content(base, size), made, seconds)
            jobs[pool.submit(job)] = target, made
        sizes = {future: target.size for future, (target, _) in jobs.items()}
        made_for: dict[int, list[_Entry]] = {}
        for future, answer in self._gather("encoding", sizes):
            target, made = jobs[future]
            if isinstance(answer, EntryDone):
                choices = [_Entry(target, c, n, made) for n, c in enumerate(answer.choices)]
                made_for[target.ordinal] = choices
                self._begin_large(pool, cache, choices)
            else:
                self._degraded[target.path] = _reason(answer)
        return [made_for.get(target.ordinal) or [self._whole(target)] for target in plan.targets]

    def _begin_large(self, pool: EncoderPool, cache: DeltaCache, choices: Sequence[_Entry]) -> None:
        """Compress what takes a core for minutes while there is other work for the others."""
        for entry in choices:
            if entry.choice.estimate > _BEGUN_EARLY and not self._is_hopeless(entry):
                path, job = _frame_job(pool, cache, [entry])
                self._early[path] = pool.submit(job, urgent=True)

    def _whole(self, target: Target) -> _Entry:
        return _Entry(target, Choice(EntryKind.FULL, self._stored_size(target), 0))

    def _stored_size(self, target: Target) -> int:
        try:
            return os.stat(self._repository.objects / archive_name(target.id)).st_size
        except FileNotFoundError:
            return target.size  # Its frame will fail, and say so.

    def _groups(self, entries: Sequence[_Entry]) -> list[list[_Entry]]:
        return arrange_frames([entry for entry in entries if not self._is_hopeless(entry)])

    def _compress(
        self,
        pool: EncoderPool,
        cache: DeltaCache,
        groups: Sequence[list[_Entry]],
        alternatives: Sequence[list[_Entry]],
    ) -> tuple[list[_Frame], list[_Frame]]:
        """The frames of both that could be made, in order; what fails is tried again in smaller
        ones.
        """
        made: dict[tuple[int, int], _Frame] = {}
        waiting = {(number, 0): group for number, group in enumerate([*groups, *alternatives])}
        pieces = count(1)
        while waiting:
            failed = self._compress_once(pool, cache, waiting, made)
            waiting = {
                (number, next(pieces)): [entry]
                for (number, _), entries in failed.items()
                for entry in self._lessen(entries)
            }
        kept = {key: made[key] for key in sorted(made) if self._pays(made[key])}
        return (
            [frame for (number, _), frame in kept.items() if number < len(groups)],
            [frame for (number, _), frame in kept.items() if number >= len(groups)],
        )

    def _compress_once(
        self,
        pool: EncoderPool,
        cache: DeltaCache,
        waiting: dict[tuple[int, int], list[_Entry]],
        made: dict[tuple[int, int], _Frame],
    ) -> dict[tuple[int, int], list[_Entry]]:
        jobs: dict[Future[Answer], tuple[tuple[int, int], Path]] = {}
        sizes = {}
        for key, entries in sorted(waiting.items(), key=lambda item: -_estimate(item[1])):
            path, job = _frame_job(pool, cache, entries)
            future = self._early.pop(path, None) or pool.submit(job)
            jobs[future] = key, path
            sizes[future] = _estimate(entries)
        failed = {}
        for future, answer in self._gather("compressing", sizes):
            key, path = jobs[future]
            entries = waiting[key]
            if isinstance(answer, FrameDone) and answer.length <= MAX_FRAME_LENGTH:
                decoded = sum(entry.target.size for entry in entries)
                digest = ObjectId(answer.digest)
                info = FrameInfo(answer.length, digest, decoded, answer.cost)
                made[key] = _Frame(entries, info, path)
            else:
                failed[key] = entries
                for entry in entries[:1] if len(entries) == 1 else ():
                    self._note_failure(entry, _reason(answer))
        return failed

    def _note_failure(self, entry: _Entry, reason: str) -> None:
        if entry.choice.kind == EntryKind.FULL:
            self._degraded.pop(entry.target.path, None)
            self._left_out[entry.target.path] = reason
        elif entry.number == 0:
            self._degraded[entry.target.path] = reason

    def _lessen(self, entries: list[_Entry]) -> list[_Entry]:
        """What to try instead of a frame that failed: one by one, then whole, then nothing."""
        if len(entries) > 1:
            return entries
        only = entries[0]
        return [only.whole] if only.choice.kind != EntryKind.FULL and only.number == 0 else []

    def _is_hopeless(self, entry: _Entry) -> bool:
        """Whether a whole object is so dense that packing it would not pay."""
        if entry.choice.kind != EntryKind.FULL:
            return False
        stored = self._stored_size(entry.target)
        hopeless = stored >= _LARGE_WHOLE and stored >= _HARDLY_SMALLER * entry.target.size
        if hopeless:
            self._left_out[entry.target.path] = _NO_GAIN
        return hopeless

    def _pays(self, frame: _Frame) -> bool:
        """Whether a frame is better than the files that the archive publishes anyway."""
        if frame.info.length < _LARGE_WHOLE or len(frame.entries) > 1:
            return True
        (entry,) = frame.entries
        if entry.choice.kind != EntryKind.FULL:
            return True
        stored = self._stored_size(entry.target)
        if frame.info.length <= _HARDLY_SMALLER * stored:
            return True
        self._left_out[entry.target.path] = _NO_GAIN
        return False

    def _gather(
        self, step: str, sizes: dict[Future[Answer], int]
    ) -> Iterator[tuple[Future[Answer], Answer]]:
        """Answers as they come; tells the progress."""
        done, total, failures = 0, sum(sizes.values()), 0
        for future in as_completed(sizes):
            answer = future.result()
            if isinstance(answer, EntryDone | FrameDone):
                self._succeeded = True
            else:
                # A full disk is nobody's failure, and no reason for a poor pack.
                require_space(self._scratch, 0, self._repository.reserve)
                failures += 1
                if failures >= _ALL_BAD and not self._succeeded:
                    raise EncodersFailedError(f"no encoder works: {_reason(answer)}")
            yield future, answer
            done += sizes[future]
            self._progress(step, done, total)

    def _write(
        self,
        plan: PackPlan,
        shared: Shared,
        counted: Sequence[_Frame],
        alternatives: Sequence[_Frame],
    ) -> tuple[Path, Edge]:
        """Head and frames in one file, and the edge, which counts no alternatives."""
        frames = [*counted, *alternatives]
        infos = tuple(frame.info for frame in frames)
        head = encode_head(self._head(plan, shared, frames, infos))
        length = len(head) + sum(info.length for info in infos)
        require_space(self._scratch, length, self._repository.reserve)
        staged = self._scratch / "pack"
        with staged.open("wb") as output:
            output.write(head)
            for frame in frames:
                data = read_frame(frame.path)
                if hash_bytes(data) != frame.info.digest:
                    raise HacktreeError("a frame changed in the cache: run the command again")
                output.write(data)
        return staged, Edge(
            plan.old,
            plan.new,
            hash_bytes(head),
            len(head),
            len(head) + sum(frame.info.length for frame in counted),
            sum(len(frame.entries) for frame in counted),
            sum(frame.info.decoded for frame in counted),
            sum(frame.info.cost for frame in counted) // 1000,
        )

    def _head(
        self,
        plan: PackPlan,
        shared: Shared,
        frames: Sequence[_Frame],
        infos: tuple[FrameInfo, ...],
    ) -> PackHead:
        comparison = plan.comparison
        entries = [entry for frame in frames for entry in frame.entries]
        columns = PackEntries(
            counts=np.array([len(frame.entries) for frame in frames], np.int64),
            targets=np.array([entry.target.ordinal for entry in entries], np.int64),
            bases=np.array([entry.base for entry in entries], np.int64),
            kinds=np.array([entry.choice.kind for entry in entries], np.int64),
        )
        return PackHead(
            1,
            plan.old or b"",
            plan.new,
            len(self._repository.read_meta(plan.new, MAX_TREE_SIZE)),
            b"",
            pack_blob(shared.encode()),
            infos,
            pack_blob(encode_entries(columns)),
            pack_metas(
                self._trees(comparison.metas), metas_context(self._trees(comparison.old_trees))
            ),
        )

    def _trees(self, ids: Iterable[ObjectId]) -> list[bytes]:
        return [self._repository.read_meta(tree, MAX_TREE_SIZE) for tree in ids]


def part_entries(
    choices: Sequence[list[_Entry]],
) -> tuple[list[_Entry], list[_Entry], list[_Entry]]:
    """The three parts of a pack: entries that have an alternative, those without, alternatives.

    The first are the dearest for what they spare, and so are their alternatives: whoever decodes
    such entries up to some price needs one range of the file. Of those without, what takes long to
    arrive comes last: meanwhile the others are decoded.
    """
    dear = sorted((both for both in choices if len(both) > 1), key=_price, reverse=True)
    plain = sorted((one[0] for one in choices if len(one) == 1), key=_lateness)
    return [both[-1] for both in dear], plain, [both[0] for both in dear]


def _lateness(entry: _Entry) -> float:
    """The same for entries of frames of usual size; of larger ones the largest comes first."""
    estimate = entry.choice.estimate
    return -estimate if estimate > FRAME_BYTES else -math.inf


def _price(both: Sequence[_Entry]) -> float:
    """Microseconds for a byte that the second entry spares."""
    plain, small = both[0].choice, both[-1].choice
    return small.cost / max(1, plain.estimate - small.estimate)


def arrange_frames(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """Entries in their order into frames of bounded size; large ones alone, light ones apart."""
    return [part for frame in _fill_frames(entries) for part in _split_light(frame)]


def _split_light(frame: list[_Entry]) -> list[list[_Entry]]:
    """What gives large objects for few bytes in a frame of its own, where others outweigh it.

    Files that every build changes a little, as a package manager's list of what is installed, are
    all that a client lacks that has a build before and one behind.
    """
    light = [entry for entry in frame if entry.is_light]
    rest = [entry for entry in frame if not entry.is_light]
    if not light or _estimate(rest) < _OUTWEIGHED * _estimate(light) + _FRAME_COST:
        return [frame]
    return [rest, light]


def _fill_frames(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """As `arrange_frames`, light ones among the rest. A frame stands where its first entry does."""
    frames: list[list[_Entry]] = []
    current: list[_Entry] = []
    size = 0
    for entry in entries:
        estimate = entry.choice.estimate
        if estimate > ALONE_BYTES:
            frames.append([entry])
            continue
        if not current or len(current) == FRAME_ENTRIES or size + estimate > FRAME_BYTES:
            current, size = [], 0
            frames.append(current)
        current.append(entry)
        size += estimate
    return frames


def _frame_job(
    pool: EncoderPool, cache: DeltaCache, entries: Sequence[_Entry]
) -> tuple[Path, FrameJob]:
    """The job that makes a frame, and the cache file that it fills."""
    path = cache.frame(entry.key for entry in entries)
    items = [FrameItem(Content(e.target.id, e.target.size), e.made, e.number) for e in entries]
    seconds = pool.limits.seconds_for(sum(e.target.size for e in entries))
    return path, FrameJob(items, str(path), seconds)


def _estimate(entries: Sequence[_Entry]) -> int:
    return sum(entry.choice.estimate for entry in entries)


def _reason(answer: Answer) -> str:
    return getattr(answer, "reason", "an answer to another question")


def _reasons(failures: dict[bytes, str]) -> list[str]:
    return [
        f"/{path.decode('utf-8', 'backslashreplace')}: {reason}"
        for path, reason in sorted(failures.items())
    ]
