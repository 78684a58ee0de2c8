"""Pulling a commit: head, target, trees, plan, fetch, publish.

Nothing is held while the network is slow: the repository lock is taken, shared, only to publish,
and what a prune took meanwhile is fetched again first. docs/architecture.md, "Life of a pull".
"""

import asyncio
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace  # noqa: TID251 - of plans
from typing import Final

import msgspec

from hacktree.client.bandwidth import measured_model
from hacktree.client.concurrency import first_error
from hacktree.client.fetch import ContentFetcher, FetchTotals
from hacktree.client.heads import HeadReader
from hacktree.client.inventory import (
    Inventory,
    is_known_complete,
    mark_complete,
    read_inventory,
    stamp_objects,
)
from hacktree.client.memory import Memory
from hacktree.client.packfetch import PackFetcher, PackTotals, brought_by_packs, plan_packs
from hacktree.client.packs import PackChoice, choose_packs, read_conformance
from hacktree.client.plan import ContentPlan, Progress, plan_content
from hacktree.client.source import Source, WrongBytesError
from hacktree.client.staging import Staging, take_staging
from hacktree.client.target import Target, Wanted, find_target
from hacktree.client.treecache import write_trees
from hacktree.client.trees import TreeReader
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.memberdelta import CONFORMANCE
from hacktree.common.delta.plan import FetchPlan
from hacktree.common.delta.prefer import Prefer
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import Tree, encode_tree
from hacktree.common.repository.config import require_space
from hacktree.common.repository.decoding import DecoderPool, MemoryBudget, default_budget
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.objectnames import content_name, meta_name
from hacktree.common.repository.refs import hold_refs, move_ref, read_ref, ref_name_of_remote
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import publish_names, sync_staging

_MAX_ROUNDS: Final = 5
_MAX_DECODERS: Final = 8


class PulledObjectsVanishedError(HacktreeError):
    """A prune kept deleting what the pull relies on."""


class PullReport:
    """Told what a pull does, as it does it; this one keeps silent."""

    def planned(self, plan: "PullPlan") -> None:
        """The plan is made; fetching begins."""

    def progressed(self, progress: Progress) -> None:
        """One or more objects are done."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to pull, under which remote's name, with how many connections.

    `prefer`: what packs are to spare; None: objects are fetched one by one. `edges`: of the pack
    graph, if it was read already. `memory`: what earlier pulls of this process know.
    """

    remote: str
    wanted: Wanted
    connections: int = 12
    prefer: Prefer | None = Prefer.AUTO
    edges: Sequence[Edge] = field(default=(), repr=False)
    memory: Memory = field(default_factory=Memory, repr=False)


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull has to do: trees are here already (fetched or reused), contents are not.

    Short when printed: asyncio prints the result of what it ran when it ends.
    """

    target: Target
    content: ContentPlan = field(repr=False)
    trees_fetched: int
    trees_reused: int
    space_needed: int
    needed: frozenset[str] = field(repr=False)
    """The names of every object the commit reaches, but for its own."""

    inventory: Inventory = field(repr=False)
    choice: PackChoice = field(repr=False)
    trees: Sequence[bytes] = field(repr=False)
    """The commit's trees, encoded."""

    packs: FetchPlan | None = field(repr=False)
    """What packs bring of `content`, and where they come from; None: nothing."""

    @property
    def beside_packs(self) -> ContentPlan:
        """The contents that packs are not to bring."""
        if self.packs is None:
            return self.content
        brought = brought_by_packs(self.choice, self.packs)
        fetches = [fetch for fetch in self.content.fetches if fetch.entry.id not in brought]
        return replace(self.content, fetches=tuple(fetches))


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did; counts are of distinct objects, bytes are decoded."""

    target: Target = field(repr=False)
    was_complete: bool
    reused_files: int
    reused_bytes: int
    trees_fetched: int
    totals: FetchTotals
    packs: PackTotals = field(default_factory=PackTotals)


async def pull(
    repository: Repository,
    request: PullRequest,
    heads: HeadReader,
    sources: Sequence[Source],
    report: PullReport,
    pool: DecoderPool,
) -> PullResult:
    """Bring a commit and everything it reaches here, then move `remotes/<remote>/<branch>` to it.

    The last of `sources` is the remote, the others only spare it work. `pool` decodes packs.
    Interrupted anywhere, the next pull continues. Raises `PeerError`, `SpaceError`, `CorruptError`
    and `OSError`.
    """
    target = await _find(repository, request, heads, sources[-1])
    ref = ref_name_of_remote(request.remote, request.wanted.branch)
    if read_ref(repository, ref) == target.id and is_known_complete(repository, target.id):
        return unchanged(target)
    return await pull_target(repository, request, target, sources, report, pool, ref)


async def pull_target(
    repository: Repository,
    request: PullRequest,
    target: Target,
    sources: Sequence[Source],
    report: PullReport,
    pool: DecoderPool,
    ref: str | None,
) -> PullResult:
    """As `pull`, for a commit that is known already; `ref` moves to it.

    None: no ref does. Then a pin has to name the commit before this begins, or the next prune
    deletes what was brought.
    """
    with take_staging(repository) as staging:
        choice = await _choose_packs(staging, request, target, sources)
        packs = PackTotals(notes=list(choice.notes))
        for _ in range(_MAX_ROUNDS):
            begun = _begin_plan(staging, sources[-1], choice, request.memory)
            fetcher = ContentFetcher(staging, sources, request.connections, report.progressed)
            by_pack = PackFetcher(
                staging, sources[-1], choice, begun.inventory, pool, fetcher.advance
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(by_pack.run(begun.packs))
                    try:
                        if begun.packs is not None:
                            # Planning keeps the event loop busy, which has to bring frames.
                            await by_pack.has_begun()
                        plan = await _end_plan(staging, target, sources, request, choice, begun)
                        report.planned(plan)
                        require_space(staging.directory, plan.space_needed, repository.reserve)
                        fetcher.begin(plan.content)
                        by_pack.begin(plan.content)
                        group.create_task(asyncio.to_thread(_stage_trees, staging, plan))
                        await fetcher.run(plan.beside_packs)
                    finally:
                        by_pack.abandon()
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
            packs.add(by_pack.totals)
            remaining = _remaining(plan.content, staging)
            packs.missed += len(remaining.fetches)
            await fetcher.run(remaining)
            if publish(staging, plan, ref):
                staging.delete()
                return PullResult(
                    target,
                    False,
                    plan.content.reused_files,
                    plan.content.reused_bytes,
                    plan.trees_fetched,
                    fetcher.totals,
                    packs,
                )
        raise PulledObjectsVanishedError(
            "objects that this pull needs keep vanishing", hint="Is a prune running in a loop?"
        )


def decoders(repository: Repository) -> DecoderPool:
    """Workers for the packs of one pull, a core each, with a quarter of the free memory.

    Those that are forked know what the repository's pulls have found out about the compressors.
    """
    CONFORMANCE.update(read_conformance(repository))
    return DecoderPool(_decoder_count(), MemoryBudget(default_budget()))


def _decoder_count() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_DECODERS)


async def _choose_packs(
    staging: Staging,
    request: PullRequest,
    target: Target,
    sources: Sequence[Source],
) -> PackChoice:
    """Packs for this pull; none where they are not wanted or cost more than they spare."""
    prefer = request.prefer
    model = measured_model(
        staging.repository, prefer or Prefer.AUTO, _decoder_count(), request.connections
    )
    # An archive would compress anew what a pack decodes; a reference is nearer than any pack.
    if prefer is None or staging.repository.mode is Mode.ARCHIVE or len(sources) > 1:
        return PackChoice(model)
    memory = request.memory

    def judge(choice: PackChoice) -> float:
        # Why it can't be planned is said when it is.
        unsaid = msgspec.structs.replace(choice, notes=[])
        plan = _begin_plan(staging, sources[-1], unsaid, memory).packs
        return math.inf if plan is None else choice.model.work_seconds(plan.work)

    return await choose_packs(staging, target, sources[-1], model, judge, request.edges, memory)


def _remaining(content: ContentPlan, staging: Staging) -> ContentPlan:
    """The contents that packs were to bring and did not."""
    mode = staging.repository.mode
    fetches = [f for f in content.fetches if content_name(mode, f.entry) not in staging.verified]
    return replace(content, fetches=tuple(fetches), copies=())


async def plan_only(
    repository: Repository,
    request: PullRequest,
    heads: HeadReader,
    sources: Sequence[Source],
) -> PullPlan:
    """What `pull` would do. Trees that are fetched stay staged for it; packs bring theirs anew."""
    target = await _find(repository, request, heads, sources[-1])
    with take_staging(repository) as staging:
        choice = await _choose_packs(staging, request, target, sources)
        begun = _begin_plan(staging, sources[-1], choice, request.memory)
        return await _end_plan(staging, target, sources, request, choice, begun)


async def _find(
    repository: Repository, request: PullRequest, heads: HeadReader, remote: Source
) -> Target:
    head = await heads.read_head(request.wanted.branch)
    return await find_target(repository, remote, head, request.wanted)


def unchanged(target: Target) -> PullResult:
    """The result where everything was here."""
    totals = target.commit.totals
    return PullResult(target, True, totals.files, totals.bytes, 0, FetchTotals())


class _BegunPlan(msgspec.Struct, frozen=True):
    """What is here, and what to take from packs: enough to begin to decode."""

    inventory: Inventory
    packs: FetchPlan | None


def _begin_plan(staging: Staging, remote: Source, choice: PackChoice, memory: Memory) -> _BegunPlan:
    inventory = memory.inventory = read_inventory(staging.repository, memory.inventory)
    packs = None
    try:
        packs = plan_packs(choice, inventory, staging, remote)
    except FormatError as error:
        choice.notes.append(f"packs are not used: {error.message}")
    return _BegunPlan(inventory, packs)


async def _end_plan(
    staging: Staging,
    target: Target,
    sources: Sequence[Source],
    request: PullRequest,
    choice: PackChoice,
    begun: _BegunPlan,
) -> PullPlan:
    """Read the commit's trees and compare what they name with what is in objects/ now.

    A tree that is here says nothing of what it names: only the listing of objects/ does.
    """
    repository = staging.repository
    inventory = begun.inventory
    memory = request.memory
    decoded = choice.trees or memory.trees
    reader = TreeReader(
        staging, sources, request.connections, decoded, memory.extents, choice.brought
    )
    trees = memory.trees = await reader.read_all(target, inventory.names)
    if reader.fetched:
        # That may have taken a while.
        inventory = memory.inventory = read_inventory(repository, inventory)
    encoded = {name: choice.encoded.get(name) or encode_tree(tree) for name, tree in trees.items()}
    memory.encoded = encoded
    # On a thread, as decoding has begun: the event loop has frames to hand on.
    content = await asyncio.to_thread(_plan_content, staging, target, trees, sources[-1], inventory)
    return PullPlan(
        target,
        content,
        reader.fetched,
        reader.reused,
        content.space_needed(repository.mode) + _pack_space(begun.packs),
        content.names.union(map(meta_name, trees)),
        inventory,
        choice,
        list(encoded.values()),
        begun.packs,
    )


def _stage_trees(staging: Staging, plan: PullPlan) -> None:
    """Stage the trees that packs brought, and keep all for the next pull; while workers decode."""
    for tree in plan.choice.brought:
        name = meta_name(tree)
        if name not in plan.inventory.names and name not in staging.verified:
            staging.store_meta(tree, plan.choice.encoded[tree])
    # Only a cache: a disk that has no room for it is no failure.
    with suppress(OSError):
        write_trees(staging.repository, plan.trees)


def _pack_space(packs: FetchPlan | None) -> int:
    """Bytes of frames, and of objects decoded only as bases, that are on disk for a while."""
    return 0 if packs is None else packs.work.bytes + packs.intermediate_bytes


def _plan_content(
    staging: Staging,
    target: Target,
    trees: dict[ObjectId, Tree],
    remote: Source,
    inventory: Inventory,
) -> ContentPlan:
    try:
        return plan_content(
            trees.values(), staging.repository.mode, inventory.names, inventory.variant_of
        )
    except FormatError as error:
        raise WrongBytesError(remote.meta_location(target.id), error.message) from error


def publish(staging: Staging, plan: PullPlan, ref: str | None) -> bool:
    """Make the commit durable and move the ref, if any; False if something it needs has vanished.

    Under the shared lock no prune deletes. Order: one syncfs, which also covers names that a killed
    pull published without syncing; files and trees; the commit; the ref (invariants 1 and 2).
    """
    repository = staging.repository
    commit_name = meta_name(plan.target.id)
    with repository.lock(LockKind.SHARED):
        stamp = stamp_objects(repository)
        inventory = plan.inventory
        if inventory.stamp != stamp:
            inventory = read_inventory(repository, inventory)
        present = inventory.names
        if plan.needed - present - staging.verified:
            return False
        staging.store_meta(plan.target.id, plan.target.data)
        sync_staging(staging.directory)
        missing = sorted(plan.needed - present)
        publish_names(repository, staging.directory, missing)
        publish_names(repository, staging.directory, [commit_name])
        staging.verified.difference_update(missing, [commit_name])
        if missing or commit_name not in present:
            stamp = stamp_objects(repository)
        if ref is not None:
            with hold_refs(repository):
                move_ref(repository, ref, plan.target.id, expected=read_ref(repository, ref))
        mark_complete(repository, plan.target.id, stamp)
    return True
