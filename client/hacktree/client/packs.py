"""Choosing packs: which trees are here, which route leads from one of them to the wanted one.

The graph and the heads of packs are hints by whoever serves them; what they bring is compared with
ids that follow from the commit. Whatever goes wrong here only means that objects are fetched one by
one, and why is kept for the report. docs/architecture.md, "Life of a pull".
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.client.bandwidth import Transfer, with_bandwidth, with_round_trip
from hacktree.client.memory import Memory
from hacktree.client.source import TAIL, NotServedError, Source, SourceError
from hacktree.client.staging import Staging
from hacktree.client.target import Target
from hacktree.client.treecache import read_trees
from hacktree.common.delta.contents import Contents, compare_contents, list_contents
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.graph import Edge, Segment, decode_sealed_segment, decode_segment
from hacktree.common.delta.members.conformance import REFERENCE, conforms
from hacktree.common.delta.pack import (
    MAX_SHARED,
    PackHead,
    decode_entries,
    decode_head,
    metas_context,
    read_metas,
)
from hacktree.common.delta.plan import ALL_KINDS, RoutePack, join_trees
from hacktree.common.delta.prefer import Prefer
from hacktree.common.delta.route import CostModel, Route, find_routes
from hacktree.common.delta.streams import unpack_blob
from hacktree.common.delta.work import Work, estimate_whole
from hacktree.common.errors import CorruptError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import MAX_TREE_SIZE, Tree, decode_tree
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.prune import read_pins
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository

_MAX_SEGMENTS: Final = 8
"""Segments of the graph that are read before objects are fetched one by one."""

_MAX_ROUTES: Final = 4
"""Routes that are tried when packs of those before are gone."""

_PROBE: Final = 4
"""A route is looked into first whose heads take at most one such part of those of the best one."""

_CONFORMANCE_FILE: Final = "conformance.json"


class JoinedPack(msgspec.Struct, frozen=True):
    """A pack of the route: its edge, its head with ordinals resolved, and what entries share."""

    edge: Edge
    pack: RoutePack
    shared: bytes


class PackChoice(msgspec.Struct):
    """What was found: the route and its packs, those not taken, and why there is none.

    `model` is the cost model with what was measured meanwhile. `target_bytes`: of the wanted
    tree's files. `targets`: id and bytes of those of its contents that the route is to bring.
    `kinds`: entries that this machine can decode. `trees`: what was read on the way, and `encoded`
    its bytes; `brought` are those of them that the wanted tree needs and that are not here.
    """

    model: CostModel
    target_bytes: int = 0
    targets: Mapping[ObjectId, int] = {}
    route: Route | None = None
    alternatives: tuple[Route, ...] = ()
    packs: Sequence[JoinedPack] = ()
    kinds: frozenset[EntryKind] = ALL_KINDS
    trees: Mapping[ObjectId, Tree] = {}
    encoded: Mapping[ObjectId, bytes] = {}
    brought: Sequence[ObjectId] = ()
    notes: list[str] = []


Judge = Callable[[PackChoice], float]
"""Seconds, by the model, to bring what is not here once the heads of a choice have been read."""


async def choose_packs(
    staging: Staging,
    target: Target,
    source: Source,
    model: CostModel,
    judge: Judge,
    known: Sequence[Edge],
    memory: Memory,
) -> PackChoice:
    """Find the cheapest route to the target's tree, and read the trees that it brings.

    `known`: edges of the graph that were read already; it is read where they have no route.
    `memory`: trees that were read already.
    """
    choice = PackChoice(model, target.commit.totals.bytes)
    repository = staging.repository
    tree = target.commit.root.id
    starts = await asyncio.to_thread(held_trees, repository)
    if not starts or tree in starts:
        return choice
    opener = _Opener(staging, target, source, judge, memory)
    try:
        edges = list(known)
        if not find_routes(edges, starts, tree, choice.model.edge_seconds):
            edges = await _read_edges(source, choice, starts, tree)
        for _ in range(_MAX_ROUTES):
            routes = find_routes(edges, starts, tree, choice.model.edge_seconds)
            if not routes:
                break
            light = _lightest_heads(edges, starts, tree, choice.model, routes[0])
            choice, useless = await opener.open_best(choice, routes, light)
            if not useless:
                break
            edges = [edge for edge in edges if edge.pack not in useless]
    except (SourceError, FormatError, CorruptError) as error:
        choice.notes.append(f"packs are not used: {error.message}")
        choice.route, choice.packs = None, ()
    return choice


def held_trees(repository: Repository) -> dict[ObjectId, ObjectId]:
    """The root trees that are here whole, with a commit of each.

    A commit in `objects/` has everything it reaches (docs/adr/0002).
    """
    commits = {*list_refs(repository).values(), *read_pins(repository).values()}
    held: dict[ObjectId, ObjectId] = {}
    for commit_id in sorted(commits):
        if repository.has_meta(commit_id):
            held[repository.load_commit(commit_id).root.id] = commit_id
    return held


async def _read_edges(
    source: Source, choice: PackChoice, starts: dict[ObjectId, ObjectId], tree: ObjectId
) -> list[Edge]:
    """The graph from its newest edges on, until a route is among them."""
    edges: list[Edge] = []
    name = TAIL
    for _ in range(_MAX_SEGMENTS):
        started = time.monotonic()
        try:
            data = await source.read_graph(name)
        except NotServedError:
            break
        if name == TAIL:
            choice.model = with_round_trip(choice.model, time.monotonic() - started)
        segment = _decode_segment(data, name)
        edges.extend(segment.edges)
        if segment.older is None or find_routes(edges, starts, tree, choice.model.edge_seconds):
            break
        name = segment.older.hex()
    return edges


def _decode_segment(data: bytes, name: str) -> Segment:
    if name == TAIL:
        return decode_segment(data)
    return decode_sealed_segment(data, ObjectId(bytes.fromhex(name)))


def _lightest_heads(
    edges: Sequence[Edge],
    starts: Mapping[ObjectId, ObjectId],
    tree: ObjectId,
    model: CostModel,
    best: Route,
) -> Route | None:
    """The route whose heads take least, if that is little beside those of the best one."""
    routes = find_routes(edges, starts, tree, lambda edge: _heads_seconds(model, [edge]))
    light = routes[0]
    if light.seconds * _PROBE > _heads_seconds(model, best.edges):
        return None
    return replace(light, seconds=sum(map(model.edge_seconds, light.edges)))


def _heads_seconds(model: CostModel, edges: Sequence[Edge]) -> float:
    return model.work_seconds(Work(sum(edge.head_length for edge in edges), len(edges), 0))


class _Opener(msgspec.Struct, frozen=True):
    """Reads the heads of routes to one target; each call returns the packs that are gone, or are
    none, and were to be of the route.
    """

    staging: Staging
    target: Target
    source: Source
    judge: Judge
    memory: Memory

    async def open_best(
        self, choice: PackChoice, routes: tuple[Route, ...], light: Route | None
    ) -> tuple[PackChoice, Set[ObjectId]]:
        """The best of `routes`, unless `light` turns out to be cheaper.

        What a route takes is known at most before its heads are read: its packs. Where builds from
        before and behind the target are here, hardly anything in them is lacking, and cheap heads
        tell that as well as dear ones.
        """
        if light is None:
            return choice, await self.open_route(choice, routes)
        others = tuple(route for route in routes if route.edges != light.edges)
        probe = replace(choice)
        if useless := await self.open_route(probe, (light, *others)):
            return choice, useless
        lacking = await asyncio.to_thread(self.judge, probe)
        if lacking <= _heads_seconds(probe.model, routes[0].edges):
            return probe, frozenset()
        best = replace(choice, model=probe.model)
        if useless := await self.open_route(best, routes):
            return choice, useless
        better = await asyncio.to_thread(self.judge, best) < lacking
        return best if better else probe, frozenset()

    async def open_route(self, choice: PackChoice, routes: tuple[Route, ...]) -> Set[ObjectId]:
        """Take the first of `routes`."""
        best = routes[0]
        choice.alternatives = routes[1:]
        # What a pack costs at most says little: its heads tell what to leave. They cost what they
        # cost.
        whole = _whole_work(best.edges)
        cheaper = choice.model.work_seconds(whole) < _heads_seconds(choice.model, best.edges)
        if choice.model.prefer is Prefer.AUTO and cheaper:
            choice.notes.append("fetching objects one by one is cheaper than any route of packs")
            choice.alternatives = routes
            return frozenset()
        source, repository = self.source, self.staging.repository
        transfer = Transfer(time.monotonic)
        tasks = [_read_head(source, edge, transfer) for edge in best.edges]
        heads = await asyncio.gather(*tasks, return_exceptions=True)
        if source.traffic.tells_speed:
            choice.model = with_bandwidth(repository, choice.model, transfer)
        good, useless = _sort_out(best, heads, choice.notes)
        if useless:
            return useless
        # A test of the libraries, if it is due, leaves the interpreter to the other.
        trees = _Trees(repository, self.memory)
        (choice.packs, choice.targets, choice.brought), choice.kinds = await asyncio.gather(
            asyncio.to_thread(_join, self.target, best, good, trees),
            asyncio.to_thread(decodable_kinds, repository),
        )
        choice.trees, choice.encoded = trees.decoded, trees.encoded
        choice.route = best
        return useless


def _sort_out(
    route: Route, heads: Sequence[PackHead | BaseException], notes: list[str]
) -> tuple[list[PackHead], set[ObjectId]]:
    """The heads that came, and the packs that are gone or are none; raises any other failure."""
    good, useless = [], set()
    for edge, head in zip(route.edges, heads, strict=True):
        if isinstance(head, NotServedError | FormatError):
            notes.append(f"pack {edge.pack.hex()[:16]} is not used: {head.message}")
            useless.add(edge.pack)
        elif isinstance(head, BaseException):
            raise head
        else:
            good.append(head)
    return good, useless


def _whole_work(edges: Sequence[Edge]) -> Work:
    """What the objects of some packs would take one by one, at most: later ones replace earlier."""
    whole = estimate_whole(sum(edge.decoded for edge in edges))
    return replace(whole, requests=sum(edge.entries for edge in edges))


async def _read_head(source: Source, edge: Edge, transfer: Transfer) -> PackHead:
    data = bytearray()

    def take(piece: bytes) -> None:
        data.extend(piece)
        transfer.came(len(piece))

    await source.read_pack(edge.pack, 0, edge.head_length, take)
    head = decode_head(bytes(data), edge.pack)
    if (head.old, head.to_tree) != (edge.old, edge.new):
        raise FormatError(f"pack {edge.pack.hex()} joins other trees than the graph says")
    return head


def _join(
    target: Target, route: Route, heads: Sequence[PackHead], trees: "_Trees"
) -> tuple[list[JoinedPack], Mapping[ObjectId, int], list[ObjectId]]:
    """Resolve the ordinals of every pack.

    Returns also the contents that the target has and the first tree of the route has not; and the
    target's trees that packs brought.
    """
    joined = []
    held: Mapping[ObjectId, int] | None = None
    for edge, head in zip(route.edges, heads, strict=True):
        before = Contents({}, ()) if edge.old is None else list_contents(trees.load, edge.old)
        held = before.files if held is None else held
        context = metas_context([trees.data(tree) for tree in before.trees])
        for packed in read_metas(head, frozenset(before.trees), context):
            trees.add(packed.id, packed.data, packed.tree)
        comparison = compare_contents(trees.load, before, edge.new)
        entries = decode_entries(head, len(comparison.targets), len(comparison.bases))
        pack = join_trees(head, edge.head_length, entries, comparison)
        joined.append(JoinedPack(edge, pack, unpack_blob(head.shared, MAX_SHARED)))
    wanted = comparison.metas
    contents: Mapping[ObjectId, int] = {i: comparison.sizes[i] for i in comparison.targets}
    if len(route.edges) > 1:
        # What an earlier pack brought is new to this machine, but not to the last pack.
        reached = list_contents(trees.load, target.commit.root.id)
        wanted = reached.trees
        contents = {i: size for i, size in reached.files.items() if i not in (held or ())}
    return joined, contents, [tree for tree in wanted if tree in trees.brought]


class _Trees:
    """Trees from the repository and from packs, each read and decoded once."""

    def __init__(self, repository: Repository, memory: Memory) -> None:
        self._repository = repository
        self.encoded = dict(memory.encoded) or read_trees(repository)
        self.decoded = dict(memory.trees)
        self.brought: set[ObjectId] = set()

    def add(self, tree_id: ObjectId, data: bytes, tree: Tree) -> None:
        """A verified tree that a pack brought."""
        self.encoded[tree_id] = data
        self.decoded[tree_id] = tree
        if not self._repository.has(meta_name(tree_id)):
            self.brought.add(tree_id)

    def data(self, tree_id: ObjectId) -> bytes:
        """The encoded tree."""
        if tree_id not in self.encoded:
            self.encoded[tree_id] = self._repository.read_meta(tree_id, MAX_TREE_SIZE)
        return self.encoded[tree_id]

    def load(self, tree_id: ObjectId) -> Tree:
        """The tree; raises as `Repository.load_tree` does."""
        if tree_id not in self.decoded:
            self.decoded[tree_id] = decode_tree(self.data(tree_id))
        return self.decoded[tree_id]


def decodable_kinds(repository: Repository) -> frozenset[EntryKind]:
    """The kinds of entries that this machine can decode: whether it can recompress is tested once.

    The answer is kept in `state/`, by the versions of the compression libraries.
    """
    known = read_conformance(repository)
    before = len(known)
    good = conforms(REFERENCE, known)
    if len(known) != before:
        write_durably(repository.state / _CONFORMANCE_FILE, msgspec.json.encode(known))
    return ALL_KINDS if good else ALL_KINDS - {EntryKind.MEMBER}


def read_conformance(repository: Repository) -> dict[str, bool]:
    """What earlier pulls found out about this machine's compressors; empty if nothing."""
    try:
        data = (repository.state / _CONFORMANCE_FILE).read_bytes()
        return msgspec.json.decode(data, type=dict[str, bool])
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return {}
