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

import msgspec

from hacktree.client.source import TAIL, NotServedError, Source, SourceError
from hacktree.client.target import Target
from hacktree.common.delta.graph import Edge, decode_sealed_segment, decode_segment
from hacktree.common.delta.route import MAX_HOPS, REQUEST_BYTES
from hacktree.common.delta.work import estimate_whole
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


class GraphReading(msgspec.Struct, frozen=True):
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
    return CostGraph(builds, edges).reach(held).costs(builds)


class CostGraph:
    """The ways between trees, for several sets of held trees.

    `numbers`: of the trees. `packs` and `objects`: the ways to others, with the bytes that these
    take. `builds`: of each its tree, and the bytes of all that it holds.
    """

    def __init__(self, builds: Mapping[str, BuildTree], edges: Iterable[Edge]) -> None:
        self.numbers: dict[ObjectId, int] = {}
        self.packs: _Ways = []
        self.objects: _Ways = []
        self.builds = {
            key: (self._number(build.tree), estimate_whole(build.size).bytes)
            for key, build in builds.items()
        }
        sizes = {build.tree: build.size for build in builds.values()}
        for edge in edges:
            if edge.old is None:
                continue
            old, new = self._number(edge.old), self._number(edge.new)
            self.packs[old].append((new, edge_bytes(edge)))
            self.objects[old].append((new, _objects_bytes(edge, edge.decoded)))
            if edge.old in sizes and edge.new in sizes:
                # What only the new one has is known; so is what only the old one has.
                back = max(0, edge.decoded + sizes[edge.old] - sizes[edge.new])
                self.objects[new].append((old, _objects_bytes(edge, back)))

    def _number(self, tree: ObjectId) -> int:
        number = self.numbers.setdefault(tree, len(self.numbers))
        if number == len(self.packs):
            self.packs.append([])
            self.objects.append([])
        return number

    def reach(self, held: Collection[ObjectId]) -> "Reach":
        """How far everything is from these trees."""
        unknown = [_NEVER] * len(self.numbers)
        reach = Reach(self, [unknown.copy() for _ in range(MAX_HOPS + 1)], unknown)
        return reach.holding(held)


_Ways = list[list[tuple[int, int]]]
"""From each tree, by its number, to others, and the bytes that it takes."""

_NEVER: Final = 1 << 62


class Reach(msgspec.Struct, frozen=True):
    """How far every tree of a graph is from those that are held.

    `_routes[n]`: the least bytes to each tree over at most n packs; a pull's routes have `MAX_HOPS`
    at most. `_apart`: the least sum of the objects between, over any number of ways. With them one
    more tree costs no more work than there is that is nearer to it than to all others.
    """

    _graph: CostGraph
    _routes: list[list[int]]
    _apart: list[int]

    def costs(self, builds: Iterable[str]) -> dict[str, int]:
        """Bytes to bring each of these builds; those that the graph doesn't know are left out."""
        routes, apart, known = self._routes[-1], self._apart, self._graph.builds
        return {
            key: min(routes[tree], apart[tree], whole)
            for key in builds
            if key in known
            for tree, whole in (known[key],)
        }

    def holding(self, trees: Iterable[ObjectId]) -> "Reach":
        """The same when these are here as well."""
        numbers = self._graph.numbers
        added = [numbers[tree] for tree in trees if tree in numbers]
        routes, apart = [reached.copy() for reached in self._routes], self._apart.copy()
        _shorten_routes(routes, self._graph.packs, added)
        _shorten_distances(apart, self._graph.objects, added)
        return Reach(self._graph, routes, apart)


def _shorten_routes(routes: list[list[int]], packs: _Ways, starts: Iterable[int]) -> None:
    """Routes over packs from `starts`, too, where they are shorter."""
    latest = {tree: 0 for tree in starts if routes[0][tree]}
    for reached in routes:
        # What the last pass improved, and then one more pack behind it.
        better = {tree: cost for tree, cost in latest.items() if cost < reached[tree]}
        for tree, cost in better.items():
            reached[tree] = cost
        latest = better.copy()
        for tree, cost in better.items():
            for new, price in packs[tree]:
                if cost + price < latest.get(new, _NEVER):
                    latest[new] = cost + price


def _shorten_distances(apart: list[int], ways: _Ways, starts: Iterable[int]) -> None:
    """Sums of ways from `starts`, too, where they are less (Dijkstra)."""
    waiting = [(0, tree) for tree in starts if apart[tree]]
    for _, tree in waiting:
        apart[tree] = 0
    while waiting:
        cost, tree = heapq.heappop(waiting)
        if cost > apart[tree]:
            continue
        for new, price in ways[tree]:
            if cost + price < apart[new]:
                apart[new] = cost + price
                heapq.heappush(waiting, (cost + price, new))


def edge_bytes(edge: Edge) -> int:
    """Bytes to cross an edge: its pack, or its head and the objects in it one by one."""
    singly = edge.head_length + _objects_bytes(edge, edge.decoded)
    return min(edge.length + REQUEST_BYTES, singly)


def _objects_bytes(edge: Edge, size: int) -> int:
    """Objects of `size` bytes, as many as an edge has, one by one."""
    return estimate_whole(size).bytes + edge.entries * REQUEST_BYTES
