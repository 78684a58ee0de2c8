"""Routes through the pack graph, and what a transfer costs. Plans only: plain data in and out.

`find_routes` says which packs to join; `plan.py` then says which of their frames to fetch. Both ask
the same `CostModel`, so that "cheap" means one thing everywhere.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from hacktree.common.delta.graph import Edge
from hacktree.common.delta.prefer import Prefer
from hacktree.common.delta.work import Work
from hacktree.common.objects.ids import ObjectId

MAX_HOPS: Final = 8
"""Packs of one route."""

REQUEST_BYTES: Final = 600
"""Bytes of headers, both ways, that a request costs besides what it asks for."""

_REQUEST_SECONDS: Final = 0.001
"""Work of client and server for one request, however near they are."""
_FAST_NETWORK: Final = 1.25e8
"""Bytes a second of 1 Gbit/s: what `Prefer.TIME` assumes at least."""
_PACK_REQUESTS: Final = 2
"""The head and, mostly, one range of frames."""


class CostModel(msgspec.Struct, frozen=True):
    """How long things take here.

    `bandwidth` in bytes a second, `round_trip` in seconds, both as measured. `decode_factor`: how
    long this machine takes for what a pack calls a second of decoding. `cores` decode and
    `connections` fetch side by side.
    """

    bandwidth: float
    round_trip: float
    decode_factor: float = 1.0
    cores: int = 1
    connections: int = 8
    prefer: Prefer = Prefer.AUTO

    def __post_init__(self) -> None:
        numbers = (self.bandwidth, self.cores, self.connections)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError("a cost model needs bandwidth, cores and connections above 0")
        if not (self.round_trip >= 0 and self.decode_factor >= 0):
            raise ValueError("a cost model with a negative round trip or decode factor")

    def seconds(self, transferred: int, requests: int, decode_us: int) -> float:
        """The time for so many bytes, requests and microseconds of decoding.

        Under `Prefer.BYTES` the time of the bytes alone, headers included: comparable, if not true.
        """
        transfer = (transferred + REQUEST_BYTES * requests) / self._bandwidth
        if self.prefer is Prefer.BYTES:
            return transfer
        waiting = requests * (self.round_trip / self.connections + _REQUEST_SECONDS)
        return transfer + waiting + decode_us * 1e-6 * self.decode_factor / self.cores

    def work_seconds(self, work: Work) -> float:
        """As `seconds`."""
        return self.seconds(work.bytes, work.requests, work.decode_us)

    def edge_seconds(self, edge: Edge) -> float:
        """The time to fetch and decode a whole pack: an upper bound, and the cost of a route."""
        return self.work_seconds(edge_work(edge))

    @property
    def gap_bytes(self) -> int:
        """Bytes that cost less to fetch in vain than to spare by another request."""
        if self.prefer is Prefer.BYTES:
            return REQUEST_BYTES
        wait = self.round_trip + _REQUEST_SECONDS
        return REQUEST_BYTES + int(wait * self._bandwidth)

    @property
    def _bandwidth(self) -> float:
        if self.prefer is Prefer.TIME:
            return max(self.bandwidth, _FAST_NETWORK)
        return self.bandwidth


def edge_work(edge: Edge) -> Work:
    """What fetching and decoding the whole pack takes."""
    return Work(edge.length, _PACK_REQUESTS, 1000 * edge.cost)


class Route(msgspec.Struct, frozen=True):
    """Packs that lead from `start` (None: from scratch) to the target, in this order.

    `seconds`: the sum of the cost function over them. `work`: that of the whole packs. No edges:
    the target is held already.
    """

    start: ObjectId | None
    edges: tuple[Edge, ...]
    seconds: float
    work: Work


def find_routes(
    edges: Iterable[Edge],
    starts: Collection[ObjectId | None],
    target: ObjectId,
    cost: Callable[[Edge], float],
    max_hops: int = MAX_HOPS,
) -> tuple[Route, ...]:
    """The cheapest route from each of `starts` that has one, the best first.

    `starts`: trees held, and None if starting from scratch is allowed. Ties: fewer packs, then
    names of packs, so the order of `edges` doesn't matter. Takes `max_hops` passes over the edges.
    """
    priced = [(edge, cost(edge)) for edge in sorted(edges, key=_edge_key)]
    reached: dict[ObjectId | None, _Leg] = {target: _Leg(0.0, (), None)}
    latest = reached
    for _ in range(max_hops):
        # Backwards from the target: one more pack in front of what the last pass improved.
        latest = _extend(priced, latest, reached)
        if not latest:
            break
        reached.update(latest)
    routes = [_route(start, reached[start]) for start in starts if start in reached]
    return tuple(sorted(routes, key=lambda route: (route.seconds, _names(route.edges))))


class _Leg(msgspec.Struct, frozen=True):
    """The cheapest way found from a tree to the target: its first pack, and what follows."""

    seconds: float
    names: tuple[ObjectId, ...]
    step: "tuple[Edge, _Leg] | None"

    @property
    def rank(self) -> tuple[float, int, tuple[ObjectId, ...]]:
        return self.seconds, len(self.names), self.names


def _extend(
    priced: Iterable[tuple[Edge, float]],
    latest: dict[ObjectId | None, _Leg],
    reached: dict[ObjectId | None, _Leg],
) -> dict[ObjectId | None, _Leg]:
    better: dict[ObjectId | None, _Leg] = {}
    for edge, price in priced:
        rest = latest.get(edge.new)
        if rest is None:
            continue
        leg = _Leg(price + rest.seconds, (edge.pack, *rest.names), (edge, rest))
        known = better.get(edge.old) or reached.get(edge.old)
        if known is None or leg.rank < known.rank:
            better[edge.old] = leg
    return better


def _route(start: ObjectId | None, leg: _Leg) -> Route:
    edges = []
    work = Work(0, 0, 0)
    seconds = leg.seconds
    while leg.step is not None:
        edge, leg = leg.step
        edges.append(edge)
        work += edge_work(edge)
    return Route(start, tuple(edges), seconds, work)


def _edge_key(edge: Edge) -> tuple[ObjectId, bytes, ObjectId, int]:
    return edge.pack, edge.old or b"", edge.new, edge.length


def _names(edges: Sequence[Edge]) -> tuple[int, tuple[ObjectId, ...]]:
    return len(edges), tuple(edge.pack for edge in edges)


def coalesce(
    ranges: Iterable[tuple[int, int]],
    gap: int,
    limit: int | None = None,
    widest: int = 256 << 10,
) -> list[tuple[int, int]]:
    """Ranges [start, end) in ascending order, joined where at most `gap` bytes are between them.

    If more than `limit` remain, the narrowest gaps up to `widest` bytes are closed too. Overlapping
    and touching ranges are joined, empty ones vanish.
    """
    joined = _join(sorted(ranges), gap)
    if limit is None or len(joined) <= limit:
        return joined
    gaps = sorted(after[0] - before[1] for before, after in pairwise(joined))
    return _join(joined, min(gaps[len(joined) - max(limit, 1) - 1], widest))


def _join(ranges: Iterable[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if end <= start:
            continue
        if joined and start - joined[-1][1] <= gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
