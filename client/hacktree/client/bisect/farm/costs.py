"""What bringing each build costs, in bytes: an estimate by the pack graph, before any transfer.

The graph is read once; from the trees that are here every build is reached at once. It is an upper
bound in kind: of a route's packs a pull leaves what it has, and where the objects that a pack holds
are cheaper by themselves it takes those. docs/bisect.md, "What a build costs".
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    """A build's root tree, and the bytes of its files."""

    tree: ObjectId
    bytes: int

    @classmethod
    def of(cls, target: Target) -> "BuildTree":
        """That of a commit from the branch's history."""
        return cls(target.commit.root.id, target.commit.totals.bytes)


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

    0 for what is held. By the cheapest route of packs, or whole where there is none: then all
    that the build holds counts, as what it shares with the held ones is not known.
    """
    reached = _reach(edges, held)
    return {key: _cost(build, reached) for key, build in builds.items()}


def _cost(build: BuildTree, reached: Mapping[ObjectId, int]) -> int:
    whole = estimate_whole(build.bytes).bytes
    return min(reached.get(build.tree, whole), whole)


def _reach(edges: Iterable[Edge], held: Collection[ObjectId]) -> dict[ObjectId, int]:
    """The least bytes to each tree over at most `MAX_HOPS` packs, as a pull's routes have."""
    outgoing: dict[ObjectId, list[tuple[ObjectId, int]]] = {}
    for edge in edges:
        if edge.old is not None:
            outgoing.setdefault(edge.old, []).append((edge.new, edge_bytes(edge)))
    reached = dict.fromkeys(held, 0)
    latest = reached
    for _ in range(MAX_HOPS):
        # One more pack behind what the last pass improved.
        better: dict[ObjectId, int] = {}
        for tree, cost in latest.items():
            for new, price in outgoing.get(tree, ()):
                known = better.get(new, reached.get(new))
                if known is None or cost + price < known:
                    better[new] = cost + price
        if not better:
            break
        reached.update(better)
        latest = better
    return reached


def edge_bytes(edge: Edge) -> int:
    """Bytes to cross an edge: its pack, or its head and the objects in it one by one."""
    singly = edge.head_length + estimate_whole(edge.decoded).bytes + edge.entries * REQUEST_BYTES
    return min(edge.length + REQUEST_BYTES, singly)
