"""Which builds to bring while one is tested: those that may come next, whatever is found. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from hacktree.client.bisect.core.choice import SAME_BYTES, Choice, after_verdict, choose
from hacktree.client.bisect.core.model import Candidate, Verdict
from hacktree.client.bisect.core.state import State
from hacktree.client.bisect.farm.costs import BuildTree, estimate_costs
from hacktree.common.delta.graph import Edge
from hacktree.common.objects.ids import ObjectId

MAX_AHEAD: Final = 12
"""Builds at most: each takes about a second of a core, however little it brings."""

_STEPS: Final = 4
"""Tests that are looked ahead."""


def builds_ahead(
    state: State,
    index: int,
    builds: Mapping[str, BuildTree],
    held: Collection[ObjectId],
    edges: Iterable[Edge],
    priors: Mapping[str, int] | None = None,
) -> tuple[Candidate, ...]:
    """What to bring while `line[index]` is tested, in this order; nothing that is here.

    `builds`: of the line, by commit. `held`: trees that are here, with that of the build under
    test. The builds that follow the two verdicts come first, the cheaper of them before the other,
    as there may be time for one alone; then those of the test after the next that cost next to
    nothing, and the one that a skip leads to; then those of later tests, if they are as cheap.
    """
    edges, held = list(edges), set(held)
    found: dict[Candidate, None] = {}
    places = [(state, index)]
    for step in range(_STEPS):
        costs = estimate_costs(builds, held, edges)
        following = [
            (after, choice)
            for place in places
            for after, choice in _follow(*place, (Verdict.GOOD, Verdict.BAD), costs, priors)
            if step == 0 or (choice.cost is not None and choice.cost < SAME_BYTES)
        ]
        following.sort(key=lambda pair: pair[1].cost or 0)
        places = [(after, choice.index) for after, choice in following]
        if step == 1:
            following += _follow(state, index, (Verdict.SKIP,), costs, priors)
        for _, choice in following:
            if choice.cost != 0:
                found.setdefault(choice.candidate)
        held.update(builds[build.commit].tree for build in found if build.commit in builds)
    return tuple(found)[:MAX_AHEAD]


def _follow(
    state: State,
    index: int,
    verdicts: Iterable[Verdict],
    costs: Mapping[str, int],
    priors: Mapping[str, int] | None,
) -> Iterator[tuple[State, Choice]]:
    """What is tested next after each of the verdicts, unless the search ends there."""
    for verdict in verdicts:
        after = after_verdict(state, index, verdict)
        choice = choose(after, costs, priors)
        if choice is not None:
            yield after, choice
