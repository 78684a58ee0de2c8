"""What bringing each build costs, in bytes: an estimate by the pack graph, before any transfer.

The graph is read once; from the trees that are here every build is reached at once. It is an upper
bound in kind: of a route's packs a pull leaves what it has, and where the objects that a pack holds
are cheaper by themselves it takes those. Where no route leads, a pack between two trees still tells
how far they are apart, in both directions. docs/bisect.md, "What a build costs".
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hacktree.client.source import TAIL, NotServedError, Source, SourceError
from hacktree.client.target import Target
from hacktree.common.delta.graph import Edge, decode_sealed_segment, decode_segment
from hacktree.common.delta.route import MAX_HOPS, REQUEST_BYTES, estimate_whole
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId

MAX_SEGMENTS: Final = 64
"""Segments of the graph that are read: the packs of more than 1,000 builds."""


@dataclass(frozen=True, slots=True)
class BuildTree:
    """A build's root tree, bytes of its files, and its commit; empty if that is not kept."""

    tree: ObjectId
    size: int
    commit: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, target: Target) -> "BuildTree":
        """That of a commit from the branch's history."""
        return cls(target.commit.root.id, target.commit.totals.bytes, target.data)


@dataclass(frozen=True, slots=True)
class GraphReading:
    """Edges of the pack graph, and why there are no more, empty if nothing went wrong."""

    edges: Sequence[Edge]
    note: str = ""


async def read_edges(source: Source, wanted: Collection[ObjectId]) -> GraphReading:
    """The pack graph from its newest edges on, until there are packs to all the `wanted` trees.

    The graph is a hint: what of it can't be read, or is wrong, costs bytes and fails nothing.
    """
    edges: list[Edge] = []
    missing = set(wanted)
    name: ObjectId | None = None
    for _ in range(MAX_SEGMENTS):
        try:
            data = await source.read_graph(TAIL if name is None else name.hex())
            segment = decode_segment(data) if name is None else decode_sealed_segment(data, name)
        except NotServedError:
            break
        except (SourceError, FormatError) as error:
            return GraphReading(edges, f"the pack graph can't be read: {error.message}")
        edges.extend(segment.edges)
        missing.difference_update(edge.new for edge in segment.edges)
        name = segment.older
        if name is None or not missing:
            break
    return GraphReading(edges)


def estimate_costs(
    builds: Mapping[str, BuildTree], held: Collection[ObjectId], edges: Iterable[Edge]
) -> dict[str, int]:
    """Bytes to bring each of `builds`, by the same keys, when the `held` trees are here.

    0 for what is held. The least of: the cheapest route of packs; the objects by which it differs
    from what is held, one by one, as far as packs tell; all that it holds.
    """
    return CostGraph(builds, edges).costs(held)


class CostGraph:
    """As `estimate_costs`, for several sets of held trees."""

    def __init__(self, builds: Mapping[str, BuildTree], edges: Iterable[Edge]) -> None:
        self._builds = builds
        self._packs: _Ways = {}
        self._objects: _Ways = {}
        sizes = {build.tree: build.size for build in builds.values()}
        for edge in edges:
            if edge.old is None:
                continue
            _add(self._packs, edge.old, edge.new, edge_bytes(edge))
            _add(self._objects, edge.old, edge.new, _objects_bytes(edge, edge.decoded))
            if edge.old in sizes and edge.new in sizes:
                # What only the new one has is known; so is what only the old one has.
                back = max(0, edge.decoded + sizes[edge.old] - sizes[edge.new])
                _add(self._objects, edge.new, edge.old, _objects_bytes(edge, back))

    def costs(self, held: Collection[ObjectId]) -> dict[str, int]:
        """Bytes to bring each build when these trees are here."""
        routes, apart = _reach_by_packs(self._packs, held), _distances(self._objects, held)
        costs = {}
        for key, build in self._builds.items():
            whole = estimate_whole(build.size).bytes
            tree = build.tree
            costs[key] = min(routes.get(tree, whole), apart.get(tree, whole), whole)
        return costs


_Ways = dict[ObjectId, list[tuple[ObjectId, int]]]
"""From each tree to others, and the bytes that it takes."""


def _add(ways: _Ways, start: ObjectId, end: ObjectId, price: int) -> None:
    ways.setdefault(start, []).append((end, price))


def _reach_by_packs(packs: _Ways, held: Iterable[ObjectId]) -> dict[ObjectId, int]:
    """The least bytes to each tree over at most `MAX_HOPS` packs, as a pull's routes have."""
    reached = dict.fromkeys(held, 0)
    latest = reached
    for _ in range(MAX_HOPS):
        # One more pack behind what the last pass improved.
        better: dict[ObjectId, int] = {}
        for tree, cost in latest.items():
            for new, price in packs.get(tree, ()):
                known = better.get(new, reached.get(new))
                if known is None or cost + price < known:
                    better[new] = cost + price
        if not better:
            break
        reached.update(better)
        latest = better
    return reached


def _distances(ways: _Ways, held: Iterable[ObjectId]) -> dict[ObjectId, int]:
    """The least sum of bytes to each tree, over any number of ways (Dijkstra)."""
    reached: dict[ObjectId, int] = {}
    waiting = [(0, tree) for tree in held]
    heapq.heapify(waiting)
    while waiting:
        cost, tree = heapq.heappop(waiting)
        if tree in reached:
            continue
        reached[tree] = cost
        for new, price in ways.get(tree, ()):
            if new not in reached:
                heapq.heappush(waiting, (cost + price, new))
    return reached


def edge_bytes(edge: Edge) -> int:
    """Bytes to cross an edge: its pack, or its head and the objects in it one by one."""
    singly = edge.head_length + _objects_bytes(edge, edge.decoded)
    return min(edge.length + REQUEST_BYTES, singly)


def _objects_bytes(edge: Edge, size: int) -> int:
    """Objects of `size` bytes, as many as an edge has, one by one."""
    return estimate_whole(size).bytes + edge.entries * REQUEST_BYTES
