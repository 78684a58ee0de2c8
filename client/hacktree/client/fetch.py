"""Executing a content plan: downloads on the event loop, verification and disk on threads.

Small contents are verified and written in batches, since a thread hop costs as much as one of
them. Large ones go through a part file, so memory is bounded and a killed pull continues.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec

from hacktree.client.concurrency import run_together, run_workers
from hacktree.client.plan import (
    LARGE_AT_ONCE,
    LARGE_FILE,
    ContentPlan,
    Fetch,
    LocalCopy,
    Progress,
    ProgressSink,
)
from hacktree.client.source import ContentForm, Source, SourceError, WrongBytesError
from hacktree.client.staging import Staging
from hacktree.common.errors import CorruptError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import EMPTY_FILE_ID
from hacktree.common.repository.config import require_space
from hacktree.common.repository.objectnames import content_name

T = TypeVar("T")

_BATCH_ITEMS: Final = 32
_BATCH_BYTES: Final = 1 << 20
_BATCHES_AT_ONCE: Final = 3
_SPACE_CHECK_BYTES: Final = 64 << 20


class CopyDamagedError(CorruptError):
    """A local object that another variant was to be made of is damaged."""


class FetchTotals(msgspec.Struct):
    """What a fetch did: distinct contents and their decoded bytes, by where they came from."""

    fetched_objects: int = 0
    fetched_bytes: int = 0
    recovered_objects: int = 0
    linked_objects: int = 0
    copied_objects: int = 0


class _Item(msgspec.Struct):
    fetch: Fetch
    source: int = 0


class _Received(msgspec.Struct, frozen=True):
    item: _Item
    data: bytes


class ContentFetcher:
    """Brings the contents of one plan into `staging`; `sources` are tried in order."""

    def __init__(
        self,
        staging: Staging,
        sources: Sequence[Source],
        connections: int,
        progress: ProgressSink,
    ) -> None:
        self.totals = FetchTotals()
        self._staging = staging
        self._sources = sources
        self._connections = connections
        self._progress = progress
        self._batch: list[_Received] = []
        self._batch_bytes = 0
        self._slots = asyncio.Semaphore(_BATCHES_AT_ONCE)
        self._again: deque[_Item] = deque()
        self._done = Progress()
        self._unchecked_bytes = 0

    def begin(self, plan: ContentPlan) -> None:
        """Progress is told against this plan, of which others may stage a part."""
        self._done = Progress(
            objects_total=len(plan.fetches) + len(plan.copies), bytes_total=plan.fetch_bytes
        )

    async def run(self, plan: ContentPlan) -> None:
        """Stage everything the plan names; raises `PeerError` or `OSError` at the first failure."""
        threads = max(2, min(os.cpu_count() or 2, 8))
        with ThreadPoolExecutor(threads, "pull") as executor:
            self._executor = executor
            await self._run_copies(plan.copies)
            items = [_Item(fetch) for fetch in plan.fetches]
            while items:
                await self._run_round(items)
                items, self._again = list(self._again), deque()

    async def _run_copies(self, copies: Sequence[LocalCopy]) -> None:
        objects = self._staging.repository.objects

        async def copy(item: LocalCopy) -> None:
            await self._in_thread(lambda: self._copy(f"{objects}/{item.source}", item))
            self.totals.copied_objects += 1
            self.advance(1, 0)

        await run_workers(deque(copies), copy, 2)

    def _copy(self, source: str, item: LocalCopy) -> None:
        if self._staging.recover_content(item.entry):
            return
        try:
            self._staging.store_copy(source, item.entry)
        except FormatError as error:
            raise CopyDamagedError(
                error.message, hint="`hacktree fsck --repair`, then pull again."
            ) from error

    async def _run_round(self, items: list[_Item]) -> None:
        large = deque(item for item in items if item.fetch.entry.size > LARGE_FILE)
        small = deque(item for item in items if item.fetch.entry.size <= LARGE_FILE)
        few = min(LARGE_AT_ONCE, self._connections)

        await run_together(
            run_workers(large, self._fetch_large, few),
            run_workers(small, self._fetch_small, max(1, self._connections - few)),
        )
        await self._flush()

    async def _fetch_small(self, item: _Item) -> None:
        entry = item.fetch.entry
        if entry.id == EMPTY_FILE_ID:
            await self._in_thread(lambda: self._store_empty(item))
            self._finish(item)
            return
        if await self._find_locally(item):
            return
        source = self._sources[item.source]
        try:
            data = await source.read_content(entry)
        except SourceError as error:
            self._try_next_source(item, error)
            return
        self._batch.append(_Received(item, data))
        self._batch_bytes += len(data)
        if len(self._batch) >= _BATCH_ITEMS or self._batch_bytes >= _BATCH_BYTES:
            await self._flush()

    async def _find_locally(self, item: _Item) -> bool:
        """Whether a killed pull left it staged, or it could be hard-linked; both are verified."""
        entry = item.fetch.entry
        name = content_name(self._staging.repository.mode, entry)
        if self._staging.is_leftover(name) and await self._in_thread(
            lambda: self._staging.recover_content(entry)
        ):
            self.totals.recovered_objects += 1
        elif await self._link(item, name):
            self.totals.linked_objects += 1
        else:
            return False
        await self._in_thread(lambda: self._store_variants(item.fetch))
        self._finish(item)
        return True

    async def _link(self, item: _Item, name: str) -> bool:
        if not self._sources[item.source].link_content(name, self._staging.path(name)):
            return False
        try:
            await self._in_thread(lambda: self._staging.check_content(item.fetch.entry))
        except FormatError:
            self._staging.discard(name)
            return False
        return True

    async def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        async with self._slots:
            rejected = await self._in_thread(lambda: self._store_batch(batch))
        bad = {id(received) for received, _ in rejected}
        for received in batch:
            if id(received) not in bad:
                self.totals.fetched_objects += 1
                self.totals.fetched_bytes += received.item.fetch.entry.size
                self._finish(received.item)
        for received, error in rejected:
            self._reject(received.item, error)

    def _store_batch(self, batch: list[_Received]) -> list[tuple[_Received, FormatError]]:
        rejected = []
        for received in batch:
            item = received.item
            try:
                form = self._sources[item.source].form
                self._staging.store_small(item.fetch.entry, received.data, form)
                self._store_variants(item.fetch)
            except FormatError as error:
                rejected.append((received, error))
        return rejected

    def _store_empty(self, item: _Item) -> None:
        self._staging.store_empty(item.fetch.entry)
        for entry in item.fetch.variants:
            self._staging.store_empty(entry)

    def _store_variants(self, fetch: Fetch) -> None:
        name = content_name(self._staging.repository.mode, fetch.entry)
        for entry in fetch.variants:
            if not self._staging.recover_content(entry):
                self._staging.store_copy(self._staging.path(name), entry)

    async def _fetch_large(self, item: _Item) -> None:
        if await self._find_locally(item):
            return
        entry = item.fetch.entry
        source = self._sources[item.source]
        part = self._staging.part(content_name(self._staging.repository.mode, entry))
        continued = part.exists()
        try:
            await source.save_content(entry, part)
            await self._in_thread(lambda: self._store_large(item.fetch, source.form))
        except SourceError as error:
            self._try_next_source(item, error)
            return
        except FormatError as error:
            if continued:
                # The part of an earlier pull may have been damaged by a crash: once from the start.
                self._again.append(item)
            else:
                self._reject(item, error)
            return
        self.totals.fetched_objects += 1
        self.totals.fetched_bytes += entry.size
        self._finish(item)

    def _store_large(self, fetch: Fetch, form: ContentForm) -> None:
        self._staging.store_large(fetch.entry, form)
        self._store_variants(fetch)

    def _try_next_source(self, item: _Item, error: SourceError) -> None:
        """Only the last source's failure is the pull's."""
        if item.source == len(self._sources) - 1:
            raise error
        item.source += 1
        self._again.append(item)

    def _reject(self, item: _Item, error: FormatError) -> None:
        location = self._sources[item.source].content_location(item.fetch.entry)
        self._try_next_source(item, WrongBytesError(location, error.message))

    def _finish(self, item: _Item) -> None:
        self.advance(1, item.fetch.entry.size)

    def advance(self, objects: int, size: int) -> None:
        """So many objects, of so many bytes, are staged."""
        done = self._done
        self._done = Progress(
            done.objects_done + objects,
            done.objects_total,
            done.bytes_done + size,
            done.bytes_total,
            sum(source.traffic.bytes for source in self._sources),
        )
        self._progress(self._done)
        self._unchecked_bytes += size
        if self._unchecked_bytes >= _SPACE_CHECK_BYTES:
            self._unchecked_bytes = 0
            require_space(self._staging.directory, 0, self._staging.repository.reserve)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
