"""Which frames of a route's packs to fetch: backwards from the objects needed.

First forwards: what obtaining each object by its cheapest entry would cost, where a frame's
transfer is shared among its entries by size, its decoding by size and kind, and a base costs what
it takes to obtain it (nothing if it is held or needed anyway). Then backwards: the entries that
were chosen, and the bases that they need. Last, each frame used is charged for all of its transfer:
one that costs more than fetching its objects whole is given up, and the choice is made again
without it. Everything is linear or n log n in the number of entries.

An object is taken from the first pack of the route that has it, so what is decoded in one pack
never depends on a later one.
"""

from collections.abc import Callable, Collection, Container, Mapping, Sequence, Set
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from hacktree.common.delta.contents import TreeComparison
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.pack import PackEntries, PackHead, check_sizes, frame_offsets
from hacktree.common.delta.prefer import Prefer
from hacktree.common.delta.route import CostModel, coalesce
from hacktree.common.delta.varint import I64
from hacktree.common.delta.work import Work
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId

MAX_RANGES: Final = 16
"""Ranges of one route, beyond which narrow gaps are fetched too."""

_ROUNDS: Final = 4

_SPEEDS: Final = {
    EntryKind.FULL: 200,
    EntryKind.DELTA: 200,
    EntryKind.ELF: 100,
    EntryKind.MEMBER: 1,
}
"""Bytes of an object a microsecond, of entries of each kind: how a frame's cost is shared."""

_WORTH_A_REQUEST: Final = 10
"""An object in a frame that is fetched is fetched whole only where its entry takes more than
one part in so many of all decoding.
"""
_ROUNDING: Final = 1 + 1e-9
"""What costs as much whole is taken from the pack."""

_DEARER: Final = 1.25
"""An object that a pack has is fetched whole only if its entry would take so many times as long: no
prediction is better than that, and it takes more bytes, and a request. Bytes are no prediction.
"""
_Flags = npt.NDArray[np.bool_]
_Reals = npt.NDArray[np.float64]

ALL_KINDS: Final[frozenset[EntryKind]] = frozenset(EntryKind)


class RoutePack(msgspec.Struct, frozen=True):
    """A pack of the route, as its head and the trees that it joins describe it.

    `offsets`: where each frame begins in the file, and the end. `targets` and `bases`: what the
    ordinals of `entries` mean; `sizes`: bytes of each of these objects.
    """

    head: PackHead
    offsets: I64
    entries: PackEntries
    targets: Sequence[ObjectId]
    bases: Sequence[ObjectId]
    sizes: Mapping[ObjectId, int]


def join_trees(
    head: PackHead, head_length: int, entries: PackEntries, trees: TreeComparison
) -> RoutePack:
    """The pack with its ordinals resolved; raises `FormatError` if its sizes are not the trees'."""
    check_sizes(head, entries, [trees.sizes[target] for target in trees.targets])
    offsets = frame_offsets(head, head_length)
    return RoutePack(head, offsets, entries, trees.targets, trees.bases, trees.sizes)


class PackPlan(msgspec.Struct, frozen=True):
    """What to do with one pack: frames to fetch, and entries to decode, both ascending.

    `ranges`: bytes [start, end) of the file to request; they cover the frames, and gaps between
    them that are not worth a request.
    """

    frames: tuple[int, ...]
    entries: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]


class FetchPlan(msgspec.Struct, frozen=True):
    """How to obtain everything needed.

    `packs`: one for each pack of the route, to be decoded in this order. `whole`: objects to fetch
    by themselves. `intermediates`: objects to decode only as bases of others; `intermediate_bytes`
    of them together. `bases`: held objects to read. `work`: what remains to be done.
    """

    packs: tuple[PackPlan, ...]
    whole: tuple[ObjectId, ...]
    intermediates: tuple[ObjectId, ...]
    intermediate_bytes: int
    bases: tuple[ObjectId, ...]
    work: Work


def plan_fetch(
    packs: Sequence[RoutePack],
    needed: Collection[ObjectId],
    held: Container[ObjectId],
    whole: Callable[[ObjectId], Work],
    model: CostModel,
    max_intermediate: int,
    kinds: Set[EntryKind] = ALL_KINDS,
) -> FetchPlan:
    """The cheapest way, by `model`, to obtain `needed` with the packs of a route.

    `whole`: what fetching an object by itself takes. `kinds`: what this machine can decode. Raises
    `FormatError` if the objects decoded only as bases exceed `max_intermediate` bytes in all: twice
    the bytes of the target tree.
    """
    universe = _Universe.of(packs, needed, held, whole, model)
    columns = [_Columns.of(pack, universe, model, kinds) for pack in packs]
    choice = _choose(columns, universe)
    for _ in range(_ROUNDS):
        if not _give_up_frames(columns, choice, universe, model):
            break
        choice = _choose(columns, universe)
    _ride_along(columns, choice)
    choice = _choose(columns, universe)
    return _describe(packs, columns, choice, universe, model, max_intermediate)


class _Universe(msgspec.Struct, frozen=True):
    """Every object that a plan may touch, by number; `prices`: seconds that an entry for it may
    take, by what it takes to fetch it whole.
    """

    ids: list[ObjectId]
    numbers: dict[ObjectId, int]
    needed: _Flags
    held: _Flags
    prices: _Reals
    works: dict[int, Work]

    @classmethod
    def of(
        cls,
        packs: Sequence[RoutePack],
        needed: Collection[ObjectId],
        held: Container[ObjectId],
        whole: Callable[[ObjectId], Work],
        model: CostModel,
    ) -> "_Universe":
        lacking = [name for name in dict.fromkeys(needed) if name not in held]
        numbers = {name: number for number, name in enumerate(lacking)}
        for pack in packs:
            for target in pack.targets:
                numbers.setdefault(target, len(numbers))
            # Not `np.unique`, which would import all of numpy.ma for it.
            for base in sorted(set(pack.entries.bases.tolist())):
                if base >= 0:
                    numbers.setdefault(pack.bases[base], len(numbers))
        ids = list(numbers)
        works = {number: whole(name) for number, name in enumerate(lacking)}
        prices = np.full(len(ids), np.inf)
        prices[: len(lacking)] = [model.work_seconds(work) for work in works.values()]
        if model.prefer is not Prefer.BYTES:
            prices *= _DEARER
        is_held = np.zeros(len(ids), np.bool_)
        is_held[len(lacking) :] = [name in held for name in ids[len(lacking) :]]
        return cls(
            ids=ids,
            numbers=numbers,
            needed=np.arange(len(ids)) < len(lacking),
            held=is_held,
            prices=prices,
            works=works,
        )


class _Columns(msgspec.Struct, frozen=True):
    """A pack's entries: object, base (-1: none), frame, bytes, and whether it may be used.

    `transfers`: seconds for each frame; `shares`: what falls on each entry if all of its frame is
    used, and `decoding` the part of that which is not transfer. `costs`: microseconds of that.
    """

    targets: I64
    bases: I64
    frames: I64
    sizes: I64
    usable: _Flags
    transfers: _Reals
    shares: _Reals
    decoding: _Reals
    costs: _Reals

    @classmethod
    def of(
        cls, pack: RoutePack, universe: _Universe, model: CostModel, kinds: Set[EntryKind]
    ) -> "_Columns":
        entries = pack.entries
        numbers = universe.numbers
        target_numbers = np.array([numbers[name] for name in pack.targets], np.int64)
        target_sizes = np.array([pack.sizes[name] for name in pack.targets], np.int64)
        bases, places = np.unique(entries.bases, return_inverse=True)
        base_numbers = [numbers[pack.bases[base]] if base >= 0 else -1 for base in bases.tolist()]
        frames = np.repeat(np.arange(len(entries.counts)), entries.counts)
        sizes = target_sizes[entries.targets]
        infos = pack.head.frames
        transfers = np.array([model.seconds(info.length, 0, 0) for info in infos], np.float64)
        decoded = np.array([info.decoded for info in infos], np.float64)
        cost = np.array([info.cost for info in infos], np.float64)
        speeds = np.array([_SPEEDS[kind] for kind in EntryKind], np.float64)
        weights = sizes / speeds[entries.kinds]
        costs = (cost / np.bincount(frames, weights, len(infos)))[frames] * weights
        decoding = costs * model.seconds(0, 0, 1)
        return cls(
            targets=target_numbers[entries.targets],
            bases=np.array(base_numbers, np.int64)[places],
            frames=frames,
            sizes=sizes,
            usable=np.isin(entries.kinds, [int(kind) for kind in kinds]),
            transfers=transfers,
            shares=(transfers / decoded)[frames] * sizes + decoding,
            decoding=decoding,
            costs=costs,
        )


class _Choice(msgspec.Struct, frozen=True):
    """Entries of each pack, ascending; objects to obtain, and those of them to fetch whole."""

    entries: list[I64]
    wanted: _Flags
    whole: _Flags


def _choose(columns: Sequence[_Columns], universe: _Universe) -> _Choice:
    option, origin = _cheapest_entries(columns, universe)
    wanted = universe.needed.copy()
    chosen: list[I64] = []
    for index in reversed(range(len(columns))):
        entries = np.sort(option[wanted & (origin == index)])
        bases = columns[index].bases[entries]
        bases = bases[bases >= 0]
        wanted[bases[~universe.held[bases]]] = True
        chosen.append(entries)
    chosen.reverse()
    return _Choice(chosen, wanted, wanted & (origin < 0))


def _cheapest_entries(columns: Sequence[_Columns], universe: _Universe) -> tuple[I64, I64]:
    """For each object the entry that gives it most cheaply, and its pack; -1 where none does."""
    count = len(universe.ids)
    option, origin = np.full((2, count), -1, np.int64)
    settled = universe.held.copy()
    costs = np.where(universe.held, 0.0, np.inf)
    for index, column in enumerate(columns):
        # A base that is needed for itself costs nothing more, once a pack before has settled how
        # it comes.
        reach = np.where(universe.needed & settled, 0.0, costs)
        price = column.shares + np.where(column.bases >= 0, reach[column.bases], 0.0)
        open_entries = np.flatnonzero(column.usable & ~settled[column.targets] & np.isfinite(price))
        order = open_entries[np.lexsort((price[open_entries], column.targets[open_entries]))]
        objects, firsts = np.unique(column.targets[order], return_index=True)
        best = order[firsts]
        costs[objects] = price[best]
        settled[objects] = True
        pays = price[best] < universe.prices[objects]
        option[objects[pays]] = best[pays]
        origin[objects[pays]] = index
    return option, origin


def _give_up_frames(
    columns: Sequence[_Columns], choice: _Choice, universe: _Universe, model: CostModel
) -> bool:
    """Make entries of frames that cost more than they save unusable; says whether there were any.

    A frame saves what its needed objects would cost whole, and for an intermediate object what
    the entries that build on it save beyond their own share.
    """
    savings = np.where(universe.needed, universe.prices, 0.0)
    request = model.seconds(0, 1, 0)
    found = False
    for column, entries in reversed(list(zip(columns, choice.entries, strict=True))):
        frames = column.frames[entries]
        count = len(column.transfers)
        used = np.bincount(frames, column.sizes[entries], count)
        alone = (used > 0) & (np.concatenate(([0.0], used[:-1])) == 0)
        transfers = column.transfers + np.where(alone, request, 0.0)
        prices = transfers + np.bincount(frames, column.decoding[entries], count)
        saved = np.bincount(frames, savings[column.targets[entries]], count)
        lost = (used > 0) & (prices > saved * _ROUNDING)
        if np.any(lost):
            found = True
            column.usable[lost[column.frames]] = False
        shares = (transfers / np.maximum(used, 1))[frames] * column.sizes[entries]
        shares += column.decoding[entries]
        bases = column.bases[entries]
        based = bases >= 0
        based[based] = ~(universe.held | universe.needed)[bases[based]]
        rest = np.maximum(savings[column.targets[entries]] - shares, 0)
        np.add.at(savings, bases[based], rest[based])
    return found


def _ride_along(columns: Sequence[_Columns], choice: _Choice) -> None:
    """Leave only the frames that are fetched, and charge no transfer for more of their entries,
    nor decoding where that is little beside all of it.
    """
    for column, entries in zip(columns, choice.entries, strict=True):
        fetched = np.zeros(len(column.transfers), np.bool_)
        fetched[column.frames[entries]] = True
        column.usable[~fetched[column.frames]] = False
    dear = sum(float(column.decoding[column.usable].sum()) for column in columns) / _WORTH_A_REQUEST
    for column in columns:
        column.shares[:] = np.where(column.decoding > dear, column.decoding, 0.0)


def _describe(
    packs: Sequence[RoutePack],
    columns: Sequence[_Columns],
    choice: _Choice,
    universe: _Universe,
    model: CostModel,
    max_intermediate: int,
) -> FetchPlan:
    intermediates = choice.wanted & ~universe.needed
    size = 0
    bases = np.zeros(len(universe.ids), np.bool_)
    plans = []
    work = Work(0, 0, 0)
    for pack, column, entries in zip(packs, columns, choice.entries, strict=True):
        size += int(column.sizes[entries][intermediates[column.targets[entries]]].sum())
        used = column.bases[entries]
        bases[used[used >= 0]] = True
        plan = _plan_pack(pack, column, entries, model, max(1, MAX_RANGES // len(packs)))
        plans.append(plan)
        work += _pack_work(column, entries, plan)
    if size > max_intermediate:
        raise FormatError(f"a route decodes {size} bytes only as bases, beyond {max_intermediate}")
    whole = np.flatnonzero(choice.whole).tolist()
    for number in whole:
        work += universe.works[number]
    return FetchPlan(
        packs=tuple(plans),
        whole=_names(universe, whole),
        intermediates=_names(universe, np.flatnonzero(intermediates).tolist()),
        intermediate_bytes=size,
        bases=_names(universe, np.flatnonzero(bases & universe.held).tolist()),
        work=work,
    )


def _names(universe: _Universe, numbers: Sequence[int]) -> tuple[ObjectId, ...]:
    return tuple(universe.ids[number] for number in numbers)


def _plan_pack(
    pack: RoutePack, column: _Columns, entries: I64, model: CostModel, limit: int
) -> PackPlan:
    frames = np.unique(column.frames[entries], return_index=True)[0]
    starts, ends = pack.offsets[frames].tolist(), pack.offsets[frames + 1].tolist()
    return PackPlan(
        frames=tuple(frames.tolist()),
        entries=tuple(entries.tolist()),
        ranges=tuple(coalesce(zip(starts, ends, strict=True), model.gap_bytes, limit)),
    )


def _pack_work(column: _Columns, entries: I64, plan: PackPlan) -> Work:
    """Bytes and requests of the ranges, and the decoding of the entries that are used."""
    decode = int(column.costs[entries].sum())
    return Work(sum(end - start for start, end in plan.ranges), len(plan.ranges), decode)
