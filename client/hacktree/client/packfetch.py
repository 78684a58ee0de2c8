"""Executing the pack side of a pull: ranges in, frames to the decoders, objects into staging.

A frame is written to the staging directory as it arrives, hashed, decoded by a worker without
privileges, and its objects are hashed here before they get their names. Downloads and decoders run
side by side; packs of a route follow one another, since each builds on the one before. Whatever
fails is left for the pull to fetch as a whole object.
"""

import asyncio
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import PriorityQueue
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from hacktree.client.concurrency import run_workers
from hacktree.client.framefiles import FrameFiles
from hacktree.client.inventory import Inventory
from hacktree.client.packs import JoinedPack, PackChoice
from hacktree.client.plan import ContentPlan, Fetch
from hacktree.client.source import ContentForm, Source, SourceError
from hacktree.client.staging import Staging, checked_chunks
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.plan import FetchPlan, PackPlan, plan_fetch
from hacktree.common.delta.work import Work
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.decoder_process import MAX_WANTED, OUTPUT
from hacktree.common.repository.decoding import (
    PIECE,
    DecodedEntry,
    DecoderFailedError,
    DecoderPool,
    FrameJob,
    PackContext,
    WantedEntry,
)
from hacktree.common.repository.durable import drop_cached, write_all
from hacktree.common.repository.objectnames import content_name
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import sync_staging

_RANGES_AT_ONCE: Final = 4
_MAX_NOTES: Final = 20
_SPARED: Final = Work(0, 0, 200_000)
"""What an object by itself is charged beside its own cost, as decoding: a server that many machines
ask at once is worth a tenth of a second of this one.
"""

_SOON: Final = 0.05
"""Seconds for which planning waits for the first frame: it keeps the event loop busy."""

_FRAMING: Final = 64
"""Bytes of a frame beside the one object that is stored in it, at most."""

_SYNC_BYTES: Final = 48 << 20
"""Bytes of objects after which the disk is told to write them, while decoding goes on."""

_DROPPED: Final = 64 << 10
"""Bytes from which on a written object's memory is given back: four fifths of all that an upgrade
writes, in a fifth of its files. What comes next is written to memory that is at hand.
"""


class PackTotals(msgspec.Struct):
    """What packs gave: objects and their bytes, frames, and why some failed.

    `missed`: objects that were to come from packs, and had to be fetched whole.
    """

    objects: int = 0
    bytes: int = 0
    frames: int = 0
    missed: int = 0
    notes: list[str] = []

    def add(self, other: "PackTotals") -> None:
        """Count what one frame gave."""
        self.objects += other.objects
        self.bytes += other.bytes
        self.frames += other.frames
        self.missed += other.missed
        self.notes = (self.notes + other.notes)[:_MAX_NOTES]


Advance = Callable[[int, int], None]
"""Told of so many objects, of so many bytes, that are staged."""


def plan_packs(
    choice: PackChoice, inventory: Inventory, staging: Staging, source: Source
) -> FetchPlan | None:
    """What to take from the chosen packs; None if there are none. Raises `FormatError`."""
    if not choice.packs:
        return None
    staged = staging.staged_contents()
    wanted = {name: size for name, size in choice.targets.items() if name.hex() not in staged}
    least = least_bytes(choice.packs)

    def whole(name: ObjectId) -> Work:
        work = source.estimate_content(name, wanted[name]) + _SPARED
        return replace(work, bytes=max(work.bytes, least.get(name, 0)))

    return plan_fetch(
        [joined.pack for joined in choice.packs],
        wanted,
        _Held(inventory),
        whole,
        choice.model,
        2 * choice.target_bytes,
        choice.kinds,
    )


def least_bytes(packs: Sequence[JoinedPack]) -> dict[ObjectId, int]:
    """What some targets take at least by themselves, as their entries tell.

    What holds compressed data shrinks no more; what stands whole and alone in a frame takes that,
    but no more than it would stored, whatever the head says.
    """
    least: dict[ObjectId, int] = {}
    for joined in packs:
        pack, entries = joined.pack, joined.pack.entries
        alone = np.flatnonzero(entries.counts == 1)
        for frame, entry in zip(alone.tolist(), entries.starts[alone].tolist(), strict=True):
            if entries.kinds[entry] == EntryKind.FULL:
                target = pack.targets[int(entries.targets[entry])]
                stored = pack.sizes[target] + _FRAMING
                least[target] = min(pack.head.frames[frame].length, stored)
        for ordinal in entries.targets[entries.kinds == EntryKind.MEMBER].tolist():
            least[pack.targets[ordinal]] = pack.sizes[pack.targets[ordinal]]
    return least


def brought_by_packs(choice: PackChoice, plan: FetchPlan) -> set[ObjectId]:
    """The contents that packs are to bring by the plan."""
    found: set[ObjectId] = set()
    for joined, part in zip(choice.packs, plan.packs, strict=True):
        pack = joined.pack
        targets = pack.entries.targets[np.array(part.entries, np.int64)]
        found.update(pack.targets[target] for target in targets.tolist())
    return found


class _Held:
    """The contents that are here, under whatever attributes."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def __contains__(self, name: object) -> bool:
        return isinstance(name, bytes) and self._inventory.holds(ObjectId(name))


class PackFetcher:
    """Brings what a plan takes from packs into `staging`.

    Decoding begins before it is known how each content is to be stored: `begin` tells that, or
    `abandon` that it never will.
    """

    def __init__(
        self,
        staging: Staging,
        source: Source,
        choice: PackChoice,
        inventory: Inventory,
        pool: DecoderPool,
        advance: Advance,
    ) -> None:
        self.totals = PackTotals()
        self.staging = staging
        self.source = source
        self._choice = choice
        self.inventory = inventory
        self.pool = pool
        self.advance = advance
        # Threads that store give way to each other at every call of the system: one more than there
        # are cores only changes places.
        self.storing = threading.Semaphore(pool.size)
        self._intermediates: dict[ObjectId, Path] = {}
        self._staged: dict[ObjectId, str] = {}
        self._unsynced = 0
        self._large: list[str] = []
        self._syncing: asyncio.Task[None] | None = None
        self._fetches: Future[dict[ObjectId, Fetch]] = Future()
        self.decoding = asyncio.Event()

    def begin(self, content: ContentPlan) -> None:
        """What is decoded may be stored now, as `content` says; anything else serves as a base."""
        self._fetches.set_result({fetch.entry.id: fetch for fetch in content.fetches})

    def abandon(self) -> None:
        """Nothing is stored if it has not begun: whoever waits for it fails."""
        self._fetches.cancel()

    async def has_begun(self) -> None:
        """Return when the first frame is here, or won't be soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON):
                await self.decoding.wait()

    async def run(self, plan: FetchPlan | None) -> None:
        """Do it; raises `OSError` and `SpaceError` only: the rest is left to be fetched whole."""
        if plan is None:
            return
        # While workers decode, one more thread stores what came before.
        with ThreadPoolExecutor(self.pool.size + 1, "decode") as executor:
            for joined, pack_plan in zip(self._choice.packs, plan.packs, strict=True):
                if not pack_plan.frames:
                    continue
                context = PackContext(joined.pack.head.dictionary, joined.shared)
                try:
                    await _PackRun(self, joined, pack_plan, context, executor).run()
                except SourceError as error:
                    self.totals.notes.append(f"pack {joined.edge.pack.hex()[:16]}: {error}")
                finally:
                    context.close()
        self.decoding.set()  # Nothing more is waited for.
        if self._syncing is not None:
            await self._syncing
        for path in self._intermediates.values():
            path.unlink(missing_ok=True)

    def note(self, done: PackTotals) -> None:
        """Count what a frame gave. Now and then the disk writes it: publishing syncs the rest."""
        self.totals.add(done)
        self.advance(done.objects, done.bytes)
        self._unsynced += done.bytes
        if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            if self._syncing is not None:
                self._syncing.result()  # A disk that fails says so once.
            self._unsynced = 0
            paths, self._large = self._large, []
            self._syncing = asyncio.create_task(asyncio.to_thread(self._sync, paths))

    def _sync(self, paths: Sequence[str]) -> None:
        sync_staging(self.staging.directory)
        for path in paths:
            drop_cached(path)

    def open_base(self, name: ObjectId) -> int:
        """A descriptor of a base; raises `FileNotFoundError` where it failed to come."""
        path: str | Path | None = self._intermediates.get(name) or self._staged.get(name)
        if path is None:
            variant = self.inventory.variant_of(name)
            if variant is None:
                raise FileNotFoundError(name.hex())
            path = f"{self.staging.repository.path}/objects/{variant}"
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def store(self, name: ObjectId, decoded: DecodedEntry) -> bool:
        """Hash a decoded object and stage it; returns whether it is one of those to bring.

        Called from several threads, for different objects. Raises `FormatError` if it is another
        one than its name says.
        """
        fetch = self._fetches.result().get(name)
        if fetch is None:
            path = self.staging.directory / f"hop-{name.hex()}"
            with path.open("wb", buffering=0) as stream:
                for chunk in checked_chunks(decoded.chunks(), name, decoded.size):
                    write_all(stream.fileno(), chunk)
            self._intermediates[name] = path
            return False
        if decoded.size <= PIECE:
            content = next(decoded.chunks(), memoryview(b""))
            self.staging.store_small(fetch.entry, content, ContentForm.RAW)
        else:
            self.staging.store_chunks(fetch.entry, decoded.chunks())
        staged = self.staging.path(content_name(self.staging.repository.mode, fetch.entry))
        self._staged[name] = staged
        if decoded.size >= _DROPPED:
            self._large.append(staged)
        for entry in fetch.variants:
            if not self.staging.recover_content(entry):
                self.staging.store_copy(staged, entry)
        return True


def check_base(repository: Repository, inventory: Inventory, name: ObjectId) -> bool:
    """Whether a local base is sound: asked only when a delta against it failed."""
    variant = inventory.variant_of(name)
    if variant is None:
        return True
    with open(repository.objects / variant, "rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").digest() == name


class _PackRun:
    """One pack: ranges are downloaded, a few at a time, while frames are decoded on threads.

    Frames that came wait on disk, and the costliest is decoded first: none is left alone at the
    end.
    """

    def __init__(
        self,
        owner: PackFetcher,
        joined: JoinedPack,
        plan: PackPlan,
        context: PackContext,
        executor: ThreadPoolExecutor,
    ) -> None:
        self._owner = owner
        self._joined = joined
        self._plan = plan
        self._context = context
        self._executor = executor
        self._decoding: set[asyncio.Task[None]] = set()
        self._waiting: PriorityQueue[tuple[int, int, FrameFiles]] = PriorityQueue()
        self._entries = _by_frame(joined, plan)

    async def run(self) -> None:
        """Everything; raises `SourceError` when a range can't be had, after decoding the rest."""
        ranges = deque(_frames_of_ranges(self._joined, self._plan))
        try:
            await run_workers(ranges, self._fetch, _RANGES_AT_ONCE)
        finally:
            await asyncio.gather(*self._decoding)

    async def _fetch(self, frames: Sequence[int]) -> None:
        files = await asyncio.to_thread(
            FrameFiles, self._owner.staging.directory, self._joined, frames
        )
        self._hand_on(files)
        start = files.start
        if start is None:
            return
        files.begin(start)
        loop = asyncio.get_running_loop()

        def take(piece: bytes) -> None:
            files.take(piece)
            if files.whole:
                # Some sources read on a thread.
                loop.call_soon_threadsafe(self._hand_on, files)

        try:
            await self._owner.source.read_pack(self._joined.edge.pack, start, files.end, take)
            self._hand_on(files)
        finally:
            files.close()

    def _hand_on(self, files: FrameFiles) -> None:
        while files.whole:
            self._owner.decoding.set()
            frame = files.whole.popleft()
            cost = self._joined.pack.head.frames[frame].cost
            self._waiting.put((-cost, frame, files))
            task = asyncio.create_task(self._decode())
            self._decoding.add(task)
            task.add_done_callback(self._decoding.discard)

    async def _decode(self) -> None:
        """The costliest frame that waits when a thread is free; there are as many as calls."""
        loop = asyncio.get_running_loop()
        self._owner.note(await loop.run_in_executor(self._executor, self._decode_next))

    def _decode_next(self) -> PackTotals:
        _, frame, files = self._waiting.get_nowait()
        return self._decode_now(files, frame)

    def _decode_now(self, files: FrameFiles, frame: int) -> PackTotals:
        """On a thread: check, decode, hash, stage."""
        done = PackTotals()
        path = files.path(frame)
        name = f"frame {frame} of pack {self._joined.edge.pack.hex()[:16]}"
        try:
            if not files.is_sound(frame):
                done.notes.append(f"{name}: served wrong bytes")
                return done
            info = _FrameEntries.of(self._joined, frame)
            for indexes in portions(self._entries[frame], info.sizes):
                self._decode_some(path, frame, info, indexes, done)
            done.frames += 1
        except DecoderFailedError as error:
            done.notes.append(f"{name}: {error.message}")
        finally:
            path.unlink(missing_ok=True)
        return done

    def _decode_some(
        self,
        path: Path,
        frame: int,
        info: "_FrameEntries",
        indexes: Sequence[int],
        done: PackTotals,
    ) -> None:
        pack = self._joined.pack
        ids, bases = info.ids, info.bases
        opened: list[int] = []
        wanted = []
        try:
            for index in indexes:
                descriptor = None
                if bases[index] >= 0:
                    try:
                        descriptor = self._owner.open_base(pack.bases[bases[index]])
                    except FileNotFoundError:
                        continue  # What gives it failed, and so does all that builds on it.
                    opened.append(descriptor)
                wanted.append(WantedEntry(index, descriptor))
            if not wanted:
                return
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            job = FrameJob(
                self._context,
                opened[-1],
                0,
                pack.head.frames[frame].length,
                info.kinds,
                info.sizes,
                wanted,
                pack.head.frames[frame].cost,
            )
            with self._owner.pool.decode(job) as decoded, self._owner.storing:
                for entry, result in zip(wanted, decoded, strict=True):
                    name, base = ids[entry.index], bases[entry.index]
                    reason = result.reason or self._store(name, result, done)
                    if reason:
                        done.notes.append(
                            self._blame(name, pack.bases[base] if base >= 0 else None, reason)
                        )
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _store(self, name: ObjectId, decoded: DecodedEntry, done: PackTotals) -> str:
        try:
            brought = self._owner.store(name, decoded)
        except FormatError as error:
            return error.message
        if brought:
            done.objects += 1
            done.bytes += decoded.size
        return ""

    def _blame(self, name: ObjectId, base: ObjectId | None, reason: str) -> str:
        """What failed; a local base that is damaged is not the pack's fault."""
        repository = self._owner.staging.repository
        if base is not None and not check_base(repository, self._owner.inventory, base):
            return f"local object {base.hex()} is damaged: run `hacktree fsck --repair`"
        return f"object {name.hex()}: {reason}"


class _FrameEntries(msgspec.Struct, frozen=True):
    """All entries of a frame: kind, object and its size in bytes, and the base's ordinal or -1."""

    kinds: list[int]
    ids: list[ObjectId]
    sizes: list[int]
    bases: list[int]

    @classmethod
    def of(cls, joined: JoinedPack, frame: int) -> "_FrameEntries":
        """Those of one frame of a pack."""
        pack = joined.pack
        first = int(pack.entries.starts[frame])
        behind = first + int(pack.entries.counts[frame])
        ids = [pack.targets[target] for target in pack.entries.targets[first:behind].tolist()]
        return cls(
            pack.entries.kinds[first:behind].tolist(),
            ids,
            [pack.sizes[name] for name in ids],
            pack.entries.bases[first:behind].tolist(),
        )


def portions(entries: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """The entries of a frame that make a job each: not more than a decoder takes at a time, nor
    more bytes than its output holds that is used again. `sizes`: of all entries of the frame.
    """
    portion: list[int] = []
    total = 0
    for entry in entries:
        if portion and (len(portion) == MAX_WANTED or total + sizes[entry] > OUTPUT):
            yield portion
            portion, total = [], 0
        portion.append(entry)
        total += sizes[entry]
    if portion:
        yield portion


def _by_frame(joined: JoinedPack, plan: PackPlan) -> dict[int, list[int]]:
    """The wanted entries of each frame, by their number in it."""
    starts = joined.pack.entries.starts
    found: dict[int, list[int]] = {frame: [] for frame in plan.frames}
    frames = np.searchsorted(starts, np.array(plan.entries, np.int64), side="right") - 1
    for entry, frame in zip(plan.entries, frames.tolist(), strict=True):
        found[frame].append(entry - int(starts[frame]))
    return found


def _frames_of_ranges(joined: JoinedPack, plan: PackPlan) -> Iterable[list[int]]:
    """The frames to take from each range of the plan."""
    offsets = joined.pack.offsets
    frames = np.array(plan.frames, np.int64)
    for start, end in plan.ranges:
        inside = frames[(offsets[frames] >= start) & (offsets[frames] < end)]
        if len(inside):
            yield inside.tolist()
