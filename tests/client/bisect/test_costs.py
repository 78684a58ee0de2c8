"""Costs of builds: by the cheapest route of packs from what is here, as a pull would go."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hacktree.client.bisect.farm.costs import (
    BuildTree,
    GraphReading,
    edge_bytes,
    estimate_costs,
    read_edges,
)
from hacktree.client.local_source import LocalSource
from hacktree.client.source import SourceError
from hacktree.common.delta.graph import EMPTY_SEGMENT, SEGMENT_LENGTH, Edge, add_edges
from hacktree.common.delta.route import find_routes
from hacktree.common.delta.work import estimate_whole
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.repository.repository import Repository
from support.pulling import make_repository

BIG = 1 << 40


def tree(number: int) -> ObjectId:
    return hash_bytes(b"tree %d" % number)


def edge(old: int | None, new: int, length: int, decoded: int = BIG) -> Edge:
    name = hash_bytes(b"%r %d %d" % (old, new, length))
    return Edge(None if old is None else tree(old), tree(new), name, 1, length, 1, decoded, 1)


def builds(*numbers: int, size: int = BIG) -> dict[str, BuildTree]:
    return {str(number): BuildTree(tree(number), size) for number in numbers}


EDGES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 1000)).filter(
        lambda edge: edge[0] != edge[1]
    ),
    max_size=60,
    unique=True,
)


@given(EDGES, st.sets(st.integers(0, 12), max_size=4))
def test_costs_are_those_of_the_routes_that_a_pull_finds(
    numbers: list[tuple[int, int, int]], held: set[int]
) -> None:
    edges = [edge(*each) for each in numbers]
    starts = [tree(number) for number in held]
    costs = estimate_costs(builds(*range(13)), starts, edges)
    for number in range(13):
        routes = find_routes(edges, starts, tree(number), edge_bytes)
        expected = int(routes[0].seconds) if routes else estimate_whole(BIG).bytes
        assert costs[str(number)] == expected


def test_what_is_here_is_free_and_the_rest_is_counted_from_the_nearest_tree() -> None:
    edges = [edge(0, 1, 10_000), edge(1, 2, 20_000), edge(4, 2, 7_000)]
    first, second = edge_bytes(edges[0]), edge_bytes(edges[1])
    assert estimate_costs(builds(0, 1, 2), [tree(0)], edges) == {
        "0": 0,
        "1": first,
        "2": first + second,
    }
    assert estimate_costs(builds(2), [tree(0), tree(4)], edges) == {"2": edge_bytes(edges[2])}


def test_a_pack_that_is_dearer_than_its_objects_counts_as_them() -> None:
    cheap = edge(0, 1, 50_000, decoded=1_000)
    costs = estimate_costs(builds(1), [tree(0)], [cheap])
    assert costs["1"] < 2_000


def test_without_a_route_a_build_costs_all_that_it_holds_and_never_more() -> None:
    whole = estimate_whole(1_000_000).bytes
    assert estimate_costs(builds(1, size=1_000_000), [], []) == {"1": whole}
    dear = edge(0, 1, 100_000_000)
    assert estimate_costs(builds(1, size=1_000_000), [tree(0)], [dear]) == {"1": whole}


def write_graph(repository: Repository, edges: list[Edge]) -> None:
    (repository.path / "graph").mkdir(exist_ok=True)
    update = add_edges(EMPTY_SEGMENT, edges)
    for name, data in update.sealed:
        (repository.path / "graph" / name.hex()).write_bytes(data)
    (repository.path / "graph/tail").write_bytes(update.tail)


async def test_the_graph_is_read_as_far_as_the_builds_go(tmp_path: Path) -> None:
    farm = make_repository(tmp_path)
    newest_first = [edge(n, n + 1, 1000) for n in reversed(range(4 * SEGMENT_LENGTH))]
    write_graph(farm, newest_first)
    tail = await read_edges(LocalSource(farm), [newest_first[0].new])
    assert len(tail.edges) == 2 * SEGMENT_LENGTH
    whole = await read_edges(LocalSource(farm), [tree(1)])
    assert list(whole.edges) == newest_first
    assert (tail.note, whole.note) == ("", "")


async def test_a_graph_that_is_absent_or_wrong_costs_bytes_and_fails_nothing(
    tmp_path: Path,
) -> None:
    farm = make_repository(tmp_path)
    assert await read_edges(LocalSource(farm), [tree(1)]) == GraphReading([])
    write_graph(farm, [edge(n, n + 1, 1000) for n in reversed(range(3 * SEGMENT_LENGTH))])
    sealed = next(path for path in (farm.path / "graph").iterdir() if path.name != "tail")
    sealed.write_bytes(b"something else")
    reading = await read_edges(LocalSource(farm), [tree(1)])
    assert len(reading.edges) == 2 * SEGMENT_LENGTH
    assert "not what its name says" in reading.note


async def test_a_server_that_fails_leaves_what_was_read(tmp_path: Path) -> None:
    class Failing(LocalSource):
        async def read_graph(self, name: str) -> bytes:
            raise SourceError("graph/tail", "HTTP 500")

    reading = await read_edges(Failing(make_repository(tmp_path)), [tree(1)])
    assert list(reading.edges) == []
    assert "HTTP 500" in reading.note
