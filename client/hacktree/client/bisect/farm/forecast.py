"""What a search will take, tests and bytes, by trying some of its possible results. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hacktree.client.bisect.core.choice import SAME_BYTES, SAME_SHARE, choose
from hacktree.client.bisect.core.model import Answered
from hacktree.client.bisect.core.state import State, apply_event
from hacktree.client.bisect.farm.costs import BuildTree, CostGraph
from hacktree.common.delta.graph import Edge
from hacktree.common.objects.ids import ObjectId

SAMPLES: Final = 8
"""About so many builds, evenly spaced, are tried as the one that is looked for."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Tests and bytes, on average and at most, of the results that were tried."""

    tests: float
    most_tests: int
    bytes: int
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Orders:
    """A search that brings its old end before the first test, and one that brings it when it must.

    `cost`: bytes of the old end, which `first` includes.
    """

    cost: int
    first: Forecast
    later: Forecast

    @property
    def pays(self) -> bool:
        """Whether the old end is better brought first: by more than what such estimates can tell,
        as it takes time before anything is tested."""
        saved = self.later.bytes - self.first.bytes
        return saved > max(self.later.bytes // SAME_SHARE, SAME_BYTES)


def forecast(
    state: State,
    trees: Mapping[str, BuildTree],
    held: Collection[ObjectId],
    edges: Sequence[Edge],
    priors: Mapping[str, int] | None = None,
) -> Forecast:
    """What the search from here on takes in this line, if no build has to be skipped."""
    return _forecast(state, trees, held, CostGraph(trees, edges), priors)


def compare_orders(
    state: State,
    trees: Mapping[str, BuildTree],
    held: Collection[ObjectId],
    edges: Sequence[Edge],
    priors: Mapping[str, int] | None = None,
) -> Orders | None:
    """What the search takes with its old end brought first, and without; None if the old end is
    here, or what it costs is not known."""
    before = trees.get(state.before.commit)
    if before is None or before.tree in held:
        return None
    graph = CostGraph(trees, edges)
    cost = graph.costs(held)[state.before.commit]
    later = _forecast(state, trees, held, graph, priors)
    first = _forecast(state, trees, {*held, before.tree}, graph, priors, cost)
    return Orders(cost, first, later)


def describe_orders(orders: Orders, size: Callable[[int], str]) -> str:
    """Both figures, in words. `size` formats bytes."""
    return (
        f"{size(orders.cost)} for it, {size(orders.first.bytes)} in all; "
        f"{size(orders.later.bytes)} if it is not brought first"
    )


def _forecast(
    state: State,
    trees: Mapping[str, BuildTree],
    held: Collection[ObjectId],
    graph: CostGraph,
    priors: Mapping[str, int] | None,
    spent: int = 0,
) -> Forecast:
    suspects = range(state.low + 1, state.high + 1)
    step = max(1, len(suspects) // SAMPLES)
    tried = [_search(state, first, trees, set(held), graph, priors) for first in suspects[::step]]
    tests = [count for count, _ in tried]
    sizes = [spent + size for _, size in tried]
    return Forecast(sum(tests) / len(tests), max(tests), sum(sizes) // len(sizes), max(sizes))


def _search(
    state: State,
    first: int,
    trees: Mapping[str, BuildTree],
    held: set[ObjectId],
    graph: CostGraph,
    priors: Mapping[str, int] | None,
) -> tuple[int, int]:
    """Tests and bytes if `line[first]` is the first new build."""
    tests = size = 0
    while True:
        choice = choose(state, graph.costs(held), priors)
        if choice is None:
            return tests, size
        size += choice.cost or 0
        if choice.candidate.commit in trees:
            held.add(trees[choice.candidate.commit].tree)
        options = state.options
        verdict = options.new if choice.index >= first else options.old
        state = apply_event(state, Answered(choice.candidate.commit, verdict))
        tests += 1
