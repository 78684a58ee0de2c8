"""What a search will take, tests and bytes, by trying some of its possible results. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import Answered
from hacktree.client.bisect.core.state import State, apply_event
from hacktree.client.bisect.farm.costs import BuildTree, estimate_costs
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


def forecast(
    state: State,
    trees: Mapping[str, BuildTree],
    held: Collection[ObjectId],
    edges: Sequence[Edge],
    priors: Mapping[str, int] | None = None,
) -> Forecast:
    """What the search from here on takes in this line, if no build has to be skipped."""
    suspects = range(state.low + 1, state.high + 1)
    step = max(1, len(suspects) // SAMPLES)
    tried = [_search(state, first, trees, set(held), edges, priors) for first in suspects[::step]]
    tests = [count for count, _ in tried]
    sizes = [size for _, size in tried]
    return Forecast(sum(tests) / len(tests), max(tests), sum(sizes) // len(sizes), max(sizes))


def _search(
    state: State,
    first: int,
    trees: Mapping[str, BuildTree],
    held: set[ObjectId],
    edges: Sequence[Edge],
    priors: Mapping[str, int] | None,
) -> tuple[int, int]:
    """Tests and bytes if `line[first]` is the first new build."""
    tests = size = 0
    while True:
        choice = choose(state, estimate_costs(trees, held, edges), priors)
        if choice is None:
            return tests, size
        size += choice.cost or 0
        if choice.candidate.commit in trees:
            held.add(trees[choice.candidate.commit].tree)
        options = state.options
        verdict = options.new if choice.index >= first else options.old
        state = apply_event(state, Answered(choice.candidate.commit, verdict))
        tests += 1
