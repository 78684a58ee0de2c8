"""Bringing a commit's trees here, level by level, and proving that they are what it says."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from hacktree.client.concurrency import run_workers
from hacktree.client.source import Source, SourceError, WrongBytesError
from hacktree.client.staging import Staging
from hacktree.client.target import Target
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, Tree, decode_tree
from hacktree.common.objects.walk import MAX_DEPTH, Extent, check_totals
from hacktree.common.repository.config import require_space
from hacktree.common.repository.objectnames import meta_name

Wanted = dict[ObjectId, int]
"""Tree ids and their encoded sizes in bytes."""

_LARGE_TREE: Final = 8 << 20
"""Trees above this many bytes are fetched one at a time, to bound memory."""


class TreeReader:
    """Reads the trees of one commit; what isn't here comes from the sources and is staged.

    `sources` are tried in order; a failure of any but the last only means the next one. `decoded`
    trees were verified, and are not read again where they are here or staged, or `brought`: the
    caller stages those. `extents`: as for `check_totals`.
    """

    def __init__(
        self,
        staging: Staging,
        sources: Sequence[Source],
        connections: int,
        decoded: Mapping[ObjectId, Tree],
        extents: dict[ObjectId, Extent] | None = None,
        brought: Iterable[ObjectId] = (),
    ) -> None:
        self.fetched = 0
        self.reused = 0
        self._staging = staging
        self._repository = staging.repository
        self._sources = sources
        self._connections = connections
        self._decoded = decoded
        self._extents = extents
        self._brought = frozenset(brought)
        self._trees: dict[ObjectId, Tree] = {}
        self._alone = asyncio.Lock()

    async def read_all(self, target: Target, present: set[str]) -> dict[ObjectId, Tree]:
        """Every distinct tree of the commit, verified against its totals; raises `PeerError`."""
        root = target.commit.root
        level: Wanted = {root.id: root.size}
        location = self._sources[-1].meta_location(target.id)
        try:
            for _ in range(MAX_DEPTH + 2):
                if not level:
                    break
                if len(self._trees) + len(level) > target.commit.totals.directories + 1:
                    raise FormatError("the tree has more directories than the commit says")
                await self._read_level(level, present)
                level = self._next_level(level)
            else:
                raise FormatError(f"directories nest deeper than {MAX_DEPTH}")
            await asyncio.to_thread(
                check_totals, self._trees.__getitem__, target.commit, self._extents
            )
        except FormatError as error:
            raise WrongBytesError(location, error.message) from error
        return self._trees

    async def _read_level(self, level: Wanted, present: set[str]) -> None:
        here = [tree_id for tree_id in level if meta_name(tree_id) in present]
        known = {tree_id: self._decoded[tree_id] for tree_id in here if tree_id in self._decoded}
        self._trees.update(known)
        unread = [tree_id for tree_id in here if tree_id not in known]
        if unread:
            self._trees.update(await asyncio.to_thread(self._load, unread))
        self.reused += len(here)
        self._trees.update(
            (tree_id, self._decoded[tree_id])
            for tree_id in level
            if tree_id in self._decoded
            and (tree_id in self._brought or meta_name(tree_id) in self._staging.verified)
        )
        missing = {i: size for i, size in level.items() if i not in self._trees}
        require_space(self._staging.directory, sum(missing.values()), self._repository.reserve)
        queue = deque(missing.items())
        await run_workers(queue, self._fetch, self._connections)

    def _load(self, ids: Iterable[ObjectId]) -> dict[ObjectId, Tree]:
        return {tree_id: self._repository.load_tree(tree_id) for tree_id in ids}

    async def _fetch(self, wanted: tuple[ObjectId, int]) -> None:
        tree_id, size = wanted
        data = self._staging.recover_meta(tree_id)
        if data is None:
            if size > _LARGE_TREE:
                async with self._alone:
                    data = await self._download(tree_id, size)
            else:
                data = await self._download(tree_id, size)
        location = self._sources[-1].meta_location(tree_id)
        try:
            self._trees[tree_id] = decode_tree(data)
        except FormatError as error:
            raise WrongBytesError(location, error.message) from error

    async def _download(self, tree_id: ObjectId, size: int) -> bytes:
        last = self._sources[-1]
        for source in self._sources:
            try:
                data = await source.read_meta(tree_id, size)
                if len(data) != size or hash_bytes(data) != tree_id:
                    raise WrongBytesError(
                        source.meta_location(tree_id), "its size or sha256 differs from its name"
                    )
            except SourceError:
                if source is last:
                    raise
                continue
            self._staging.store_meta(tree_id, data)
            self.fetched += 1
            return data
        raise AssertionError("there is always a source")

    def _next_level(self, level: Wanted) -> Wanted:
        found: Wanted = {}
        for tree_id in level:
            for entry in self._trees[tree_id].entries:
                if not isinstance(entry, DirectoryEntry) or entry.id in self._trees:
                    continue
                if found.setdefault(entry.id, entry.size) != entry.size:
                    raise FormatError(f"tree {entry.id.hex()} has two sizes")
        return found
