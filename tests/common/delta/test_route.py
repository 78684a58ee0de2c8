"""Routes: the cheapest by the cost model, whatever order the edges come in; ranges that pay."""

import itertools
import math
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.delta.graph import Edge
from hacktree.common.delta.prefer import Prefer
from hacktree.common.delta.route import (
    REQUEST_BYTES,
    CostModel,
    Route,
    coalesce,
    edge_work,
    find_routes,
)
from hacktree.common.delta.work import Work, estimate_whole
from hacktree.common.objects.ids import ObjectId, hash_bytes

TREES = [hash_bytes(bytes([number])) for number in range(6)]
A, B, C, D, E, F = TREES
_packs = itertools.count()


def _edge(old: ObjectId | None, new: ObjectId, length: int = 1000, cost: int = 0) -> Edge:
    pack = hash_bytes(f"pack {next(_packs)}".encode())
    return Edge(old, new, pack, 1, length, 1, 1, cost)


def _bytes(edge: Edge) -> float:
    return float(edge.length)


def _path(route: Route) -> list[ObjectId | None]:
    return [route.start, *(edge.new for edge in route.edges)]


def test_two_small_packs_beat_one_large() -> None:
    """By the sum of the cost function."""
    edges = [_edge(A, C, 5000), _edge(A, B), _edge(B, C)]
    (route,) = find_routes(edges, [A], C, _bytes)
    assert _path(route) == [A, B, C]
    assert route.seconds == 2000
    assert route.work == Work(2000, 4, 0)


def test_each_start_has_its_best_and_the_cheapest_comes_first() -> None:
    """From scratch too, if that is allowed: what is not taken can be shown."""
    edges = [_edge(A, C, 500), _edge(B, C, 100), _edge(None, C, 9000), _edge(None, B, 200)]
    found = find_routes(edges, [A, None, B, F], C, _bytes)
    assert [_path(route) for route in found] == [[B, C], [None, B, C], [A, C]]
    assert [route.seconds for route in found] == [100, 300, 500]


def test_a_target_that_is_held_needs_no_pack() -> None:
    """Even where a pack leads to it."""
    found = find_routes([_edge(A, B)], [A, B], B, _bytes)
    assert [len(route.edges) for route in found] == [0, 1]


def test_a_route_has_no_more_packs_than_allowed() -> None:
    """A longer one is not taken, however cheap; a dearer that is short enough is."""
    chain = [_edge(old, new, 1) for old, new in itertools.pairwise(TREES)]
    assert len(find_routes(chain, [A], F, _bytes, max_hops=5)[0].edges) == 5
    assert not find_routes(chain, [A], F, _bytes, max_hops=4)
    (route,) = find_routes([*chain, _edge(A, E, 100)], [A], F, _bytes, max_hops=4)
    assert _path(route) == [A, E, F]


def test_nothing_leads_there() -> None:
    """No edges, no way, cycles elsewhere."""
    assert not find_routes([], [A], B, _bytes)
    assert not find_routes([_edge(A, B), _edge(B, A), _edge(C, D)], [A], D, _bytes)


def _all_routes(
    edges: list[Edge], start: ObjectId | None, target: ObjectId, hops: int
) -> Iterator[float]:
    if start == target:
        yield 0.0
    elif hops:
        for edge in edges:
            if edge.old == start:
                for rest in _all_routes(edges, edge.new, target, hops - 1):
                    yield edge.length + rest


_pairs = st.tuples(st.none() | st.sampled_from(TREES), st.sampled_from(TREES)).filter(
    lambda pair: pair[0] != pair[1]
)
_edges = st.lists(
    st.tuples(_pairs, st.integers(1, 20)).map(lambda row: _edge(row[0][0], row[0][1], row[1])),
    max_size=12,
)


@given(_edges, st.integers(1, 4), st.randoms(use_true_random=False))
def test_no_route_is_cheaper_and_the_order_of_edges_is_nothing(
    edges: list[Edge], hops: int, random: Random
) -> None:
    """Against every route there is; ties always fall the same way."""
    starts = [A, B, None]
    found = find_routes(edges, starts, F, _bytes, hops)
    best = {start: min(_all_routes(edges, start, F, hops), default=math.inf) for start in starts}
    assert {route.start: route.seconds for route in found} == {
        start: seconds for start, seconds in best.items() if seconds < math.inf
    }
    for route in found:
        assert len(route.edges) <= hops
        assert [edge.old for edge in route.edges] == _path(route)[:-1]
    random.shuffle(edges)
    assert find_routes(edges, starts, F, _bytes, hops) == found


# Costs


def test_bytes_alone_or_time_alone_or_both() -> None:
    """35 s of decoding for 0.5 MB against 8 MB: by bytes always, by time never."""
    small, large = Work(500_000, 1, 35_000_000), Work(8_000_000, 1, 100_000)
    for prefer, bandwidth, wins in (
        (Prefer.BYTES, 1.25e8, True),
        (Prefer.BYTES, 1.25e5, True),
        (Prefer.AUTO, 1.25e6, False),
        (Prefer.AUTO, 1.25e5, True),
        (Prefer.TIME, 1.25e5, False),
    ):
        model = CostModel(bandwidth, 0.02, prefer=prefer)
        assert (model.work_seconds(small) < model.work_seconds(large)) is wins


def test_a_cost_adds_up() -> None:
    """The cost of a route is that of its packs together; more of anything never costs less."""
    model = CostModel(1e6, 0.05, decode_factor=2, cores=2, connections=4)
    edge = _edge(A, B, 1_000_000, cost=3000)
    assert edge_work(edge) == Work(1_000_000, 2, 3_000_000)
    total = model.work_seconds(edge_work(edge) + edge_work(edge))
    assert total == pytest.approx(2 * model.edge_seconds(edge))
    base = model.seconds(100, 1, 100)
    assert model.seconds(0, 0, 0) == 0
    assert min(model.seconds(200, 1, 100), model.seconds(100, 2, 100)) > base
    assert model.seconds(100, 1, 200) > base


def test_a_gap_is_worth_a_round_trip() -> None:
    """On a fast or distant link more is fetched in vain; for the bytes' sake nearly nothing."""
    near, far = CostModel(1.25e6, 0.001), CostModel(1.25e6, 0.1)
    assert REQUEST_BYTES < near.gap_bytes < 10_000 < 100_000 < far.gap_bytes < 200_000
    assert CostModel(1.25e6, 0.1, prefer=Prefer.BYTES).gap_bytes == REQUEST_BYTES


@pytest.mark.parametrize(
    "fields",
    [
        {"bandwidth": 0.0},
        {"bandwidth": math.nan},
        {"bandwidth": math.inf},
        {"round_trip": -1.0},
        {"round_trip": math.nan},
        {"cores": 0},
        {"connections": 0},
        {"decode_factor": -1.0},
    ],
    ids=repr,
)
def test_a_model_of_nonsense_cannot_be_made(fields: dict[str, float]) -> None:
    """A measurement that failed is not a cost."""
    with pytest.raises(ValueError, match="cost model"):
        CostModel(**{"bandwidth": 1e6, "round_trip": 0.1, **fields})  # type: ignore[arg-type]


def test_a_whole_object_is_one_request() -> None:
    """And fewer bytes than its content."""
    assert estimate_whole(1_000_000) == Work(400_000, 1, 5000)


# Ranges

_ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8))).map(
    lambda rows: [(start, start + length) for start, length in rows]
)


def _covered(ranges: list[tuple[int, int]]) -> set[int]:
    return {byte for start, end in ranges for byte in range(start, end)}


@given(_ranges, st.integers(0, 10))
def test_ranges_cover_what_was_asked_and_only_narrow_gaps_more(
    ranges: list[tuple[int, int]], gap: int
) -> None:
    """In order, apart by more than the gap, whether they were sorted or overlapped or not."""
    found = coalesce(ranges, gap)
    assert all(start < end for start, end in found)
    assert all(after[0] - before[1] > gap for before, after in itertools.pairwise(found))
    asked, given_bytes = _covered(ranges), _covered(found)
    assert asked <= given_bytes
    assert {start for start, _ in found} <= {start for start, _ in ranges}
    assert {end for _, end in found} <= {end for _, end in ranges}
    if gap == 0:
        assert asked == given_bytes


def test_the_narrowest_gaps_are_closed_for_a_limit() -> None:
    """But no gap so wide that the request is the lesser evil."""
    ranges = [(0, 10), (20, 30), (35, 40), (1_000_000, 1_000_010)]
    assert coalesce(ranges, 0, limit=3) == [(0, 10), (20, 40), (1_000_000, 1_000_010)]
    assert coalesce(ranges, 0, limit=2) == [(0, 40), (1_000_000, 1_000_010)]
    assert coalesce(ranges, 0, limit=1) == coalesce(ranges, 0, limit=2)
    assert coalesce(ranges, 0, limit=1, widest=1 << 20) == [(0, 1_000_010)]
    assert coalesce([], 0, limit=1) == []
