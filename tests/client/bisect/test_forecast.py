"""What a search will take, and what its old end costs before the first test."""

from collections.abc import Iterable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.bisect.strategies import UNTIMED
from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import Answered, Options, Verify
from hacktree.client.bisect.core.state import State, apply_event, current_state
from hacktree.client.bisect.farm.costs import BuildTree, CostGraph, estimate_costs
from hacktree.client.bisect.farm.forecast import SAMPLES, compare_orders, describe_orders, forecast
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.route import REQUEST_BYTES
from hacktree.common.delta.work import estimate_whole
from hacktree.common.objects.ids import ObjectId, hash_bytes
from support.bisecting import make_line, make_session, truthful

MEGABYTE = 1_000_000
LINE = make_line(17)
HIGH = len(LINE) - 1
TREES = {build.commit: BuildTree(hash_bytes(build.commit.encode()), 1 << 30) for build in LINE}
FORWARD = [(a, b) for a, b in combinations(range(17), 2) if (b - a) in (1, 2, 4, 8, 16)]
BACKWARD = [(b, a) for a, b in FORWARD]


def edge(old: ObjectId, new: ObjectId, length: int, decoded: int, entries: int = 1) -> Edge:
    return Edge(old, new, hash_bytes(old + new), 1, length, entries, decoded, 1)


def tree(index: int) -> ObjectId:
    return TREES[LINE[index].commit].tree


def graph(pairs: Iterable[tuple[int, int]], apart: dict[int, int] | int) -> list[Edge]:
    """Packs of 1 MB between these builds, which differ by `apart` bytes, by their distance."""
    return [
        edge(
            tree(old),
            tree(new),
            MEGABYTE,
            apart if isinstance(apart, int) else apart[abs(new - old)],
        )
        for old, new in pairs
    ]


AGAIN_AND_AGAIN = 200 * MEGABYTE
"""The same files change with every build."""

ONCE = {distance: distance * 20 * MEGABYTE for distance in (1, 2, 4, 8, 16)}
"""Every file changes once in the line."""


def state(verify: Verify = Verify.LAST) -> State:
    return current_state(make_session(LINE, Options(verify=verify)))


@pytest.mark.parametrize(
    ("edges", "held", "more"),
    [
        (graph(FORWARD, AGAIN_AND_AGAIN), (HIGH,), False),
        (graph(FORWARD, 3 * AGAIN_AND_AGAIN), (), False),
        (graph(FORWARD, ONCE), (HIGH,), True),
        (graph(FORWARD, ONCE), (), False),
        (graph([*FORWARD, *BACKWARD], AGAIN_AND_AGAIN), (HIGH,), False),
        (graph([*FORWARD, *BACKWARD], AGAIN_AND_AGAIN), (), False),
        (graph(BACKWARD, AGAIN_AND_AGAIN), (HIGH,), False),
        ([], (HIGH,), True),
        ([], (), True),
    ],
)
def test_whether_the_old_end_first_clearly_costs_more(
    edges: list[Edge], held: tuple[int, ...], *, more: bool
) -> None:
    """Then, and only then, the words name the option that spares it."""
    orders = compare_orders(state(), TREES, {tree(index) for index in held}, edges)
    assert orders is not None
    assert orders.clearly_more is more
    assert ("--no-old-end-first" in describe_orders(orders, str)) is more
    assert orders.later == forecast(state(), TREES, {tree(index) for index in held}, edges)


def test_both_orders_are_told_with_what_they_take() -> None:
    edges = graph(FORWARD, AGAIN_AND_AGAIN)
    orders = compare_orders(state(Verify.NEVER), TREES, {tree(HIGH)}, edges)
    assert orders is not None
    back = estimate_whole(AGAIN_AND_AGAIN).bytes + REQUEST_BYTES
    assert orders.cost == back
    # Four tests, each over at most two packs of 1 MB, from the old end or a later one.
    assert back < orders.first.bytes < back + 4 * 2 * MEGABYTE
    # The middle, then about half of three tests lead back.
    assert 3 * back < 2 * orders.later.bytes < 6 * back
    text = describe_orders(orders, str)
    assert all(str(n) in text for n in (back, orders.first.bytes, orders.later.bytes))


def test_an_old_end_that_is_here_or_tested_first_anyway_is_no_question() -> None:
    edges = graph(FORWARD, AGAIN_AND_AGAIN)
    assert compare_orders(state(), TREES, {tree(0)}, edges) is None
    assert compare_orders(state(), {}, (), edges) is None
    first = compare_orders(state(Verify.FIRST), TREES, (), edges)
    assert first is not None
    assert (first.first, first.clearly_more) == (first.later, False)


# --- what the estimate is worth -------------------------------------------------------------------

contents = st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=20), min_size=2, max_size=9)


@UNTIMED
@given(contents, st.data())
def test_what_a_build_lacks_is_never_estimated_too_low(
    builds: list[set[int]], data: st.DataObject
) -> None:
    """Trees as sets of objects, honest packs between some of them: whatever is held, what is
    missing of a build costs no more than was said, unless a route of packs is cheaper still."""
    size = 1_000_000
    trees = {str(n): BuildTree(hash_bytes(b"%d" % n), size * len(b)) for n, b in enumerate(builds)}
    numbers = st.integers(0, len(builds) - 1)
    pairs = data.draw(st.sets(st.tuples(numbers, numbers).filter(lambda p: p[0] != p[1])))
    held = data.draw(st.sets(numbers))
    edges = []
    for old, new in sorted(pairs):
        lacking = len(builds[new] - builds[old])
        ends = trees[str(old)].tree, trees[str(new)].tree
        edges.append(edge(*ends, size * 50, size * lacking, lacking))
    here = set[int]().union(*(builds[number] for number in held))
    costs = estimate_costs(trees, {trees[str(number)].tree for number in held}, edges)
    for number, build in enumerate(builds):
        rounding = len(builds)
        assert costs[str(number)] + rounding >= estimate_whole(size * len(build - here)).bytes
        if number in held:
            assert costs[str(number)] == 0


steps = st.tuples(st.integers(0, HIGH), st.integers(0, HIGH)).filter(
    lambda step: step[0] != step[1]
)
packs = st.dictionaries(
    steps, st.tuples(st.integers(1, 10 * MEGABYTE), st.integers(0, 1 << 30)), max_size=60
)


def edges_of(drawn: dict[tuple[int, int], tuple[int, int]]) -> list[Edge]:
    return [edge(tree(old), tree(new), *sizes) for (old, new), sizes in drawn.items()]


@UNTIMED
@given(packs, st.sets(st.integers(0, HIGH), max_size=4), st.sets(st.integers(0, HIGH)))
def test_one_tree_after_the_other_costs_as_all_at_once(
    drawn: dict[tuple[int, int], tuple[int, int]], held: set[int], added: set[int]
) -> None:
    graphed = CostGraph(TREES, edges_of(drawn))
    reach = graphed.reach([tree(index) for index in held])
    before = reach.costs(TREES)
    for index in added:
        reach.holding([tree(index)])
        assert reach.costs(TREES) == before, "what was known stays as it was"
        reach = reach.holding([tree(index)])
        held |= {index}
        before = reach.costs(TREES)
        assert before == graphed.reach({tree(one) for one in held}).costs(TREES)


@UNTIMED
@given(
    packs,
    st.sets(st.integers(0, HIGH), max_size=3),
    st.dictionaries(st.sampled_from([build.commit for build in LINE]), st.integers(1, 50)),
    st.sampled_from(Verify),
    st.sampled_from([1, 3]),
)
def test_the_forecast_is_what_searches_take(
    drawn: dict[tuple[int, int], tuple[int, int]],
    held: set[int],
    priors: dict[str, int],
    verify: Verify,
    votes: int,
) -> None:
    """Each result that is tried, searched by itself, gives the same tests and bytes."""
    begun = current_state(make_session(LINE, Options(verify=verify, votes=votes)))
    edges = edges_of(drawn)
    taken = []
    for first in range(1, HIGH + 1, HIGH // SAMPLES):
        here, searched, size = {tree(index) for index in held}, begun, 0
        while choice := choose(searched, estimate_costs(TREES, here, edges), priors):
            size += choice.cost or 0
            here.add(tree(choice.index))
            said = Answered(choice.candidate.commit, truthful(first)(searched, choice.index))
            searched = apply_event(searched, said)
        taken.append((searched.tests, size))
    told = forecast(begun, TREES, {tree(index) for index in held}, edges, priors)
    tests, sizes = [count for count, _ in taken], [size for _, size in taken]
    assert (told.tests, told.most_tests) == (sum(tests) / len(tests), max(tests))
    assert (told.bytes, told.most_bytes) == (sum(sizes) // len(sizes), max(sizes))


def test_from_the_old_end_every_later_build_is_reached_over_packs_alone() -> None:
    """Also from what was brought over packs itself: no build is dearer than its route."""
    graphed = CostGraph(TREES, graph(FORWARD, AGAIN_AND_AGAIN))
    held = {tree(HIGH), tree(0)}
    for index in (8, 12, 10, 11):
        for cost in graphed.reach(held).costs(TREES).values():
            assert cost <= 4 * (MEGABYTE + REQUEST_BYTES)
        held.add(tree(index))
