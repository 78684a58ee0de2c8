"""What a search will take, tests and bytes, by trying some of its possible results. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from hacktree.client.bisect.core.choice import SAME_BYTES, SAME_SHARE, choose
from hacktree.client.bisect.core.model import Answered
from hacktree.client.bisect.core.state import State, apply_event
from hacktree.client.bisect.farm.costs import BuildTree, CostGraph, Reach
from hacktree.common.delta.graph import Edge
from hacktree.common.objects.ids import ObjectId

SAMPLES: Final = 8
"""About so many builds, evenly spaced, are tried as the one that is looked for."""


class Forecast(msgspec.Struct, frozen=True):
    """Tests and bytes, on average and at most, of the results that were tried."""

    tests: float
    most_tests: int
    bytes: int
    most_bytes: int


class Orders(msgspec.Struct, frozen=True):
    """A search that brings its old end before the first test, and one that brings it only if it
    must.

    `cost`: bytes of the old end, which `first` includes.
    """

    cost: int
    first: Forecast
    later: Forecast

    @property
    def clearly_more(self) -> bool:
        """Whether the old end first takes more bytes, by more than what such estimates can tell."""
        more = self.first.bytes - self.later.bytes
        return more > max(self.later.bytes // SAME_SHARE, SAME_BYTES)


def forecast(
    state: State,
    trees: Mapping[str, BuildTree],
    held: Collection[ObjectId],
    edges: Sequence[Edge],
    priors: Mapping[str, int] | None = None,
) -> Forecast:
    """What the search from here on takes in this line, if no build has to be skipped."""
    return _forecast(state, trees, CostGraph(trees, edges).reach(held), priors)


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
    here = CostGraph(trees, edges).reach(held)
    cost = here.costs([state.before.commit])[state.before.commit]
    later = _forecast(state, trees, here, priors)
    first = _forecast(state, trees, here.holding([before.tree]), priors, cost)
    return Orders(cost, first, later)


def describe_orders(orders: Orders, size: Callable[[int], str]) -> str:
    """That the old end comes first, with both figures, and how to spare bytes if that would.

    `size` formats bytes.
    """
    hint = " (--no-old-end-first)" if orders.clearly_more else ""
    return (
        f"The old end is brought first: {size(orders.cost)} for it, about "
        f"{size(orders.first.bytes)} in all; without it about {size(orders.later.bytes)}{hint}"
    )


def _forecast(
    state: State,
    trees: Mapping[str, BuildTree],
    here: Reach,
    priors: Mapping[str, int] | None,
    spent: int = 0,
) -> Forecast:
    suspects = range(state.low + 1, state.high + 1)
    tried = suspects[:: max(1, len(suspects) // SAMPLES)]
    ends: list[tuple[int, int]] = []
    courses = [_Course(state, here, tried, 0, spent)]
    while courses:
        course = courses.pop()
        following = _test(course, trees, priors)
        courses.extend(following)
        if not following:
            ends.extend((course.tests, course.bytes) for _ in course.firsts)
    tests = [count for count, _ in ends]
    sizes = [size for _, size in ends]
    return Forecast(sum(tests) / len(tests), max(tests), sum(sizes) // len(sizes), max(sizes))


class _Course(msgspec.Struct, frozen=True):
    """A search so far: it went the same way whichever of `firsts` is the first new build."""

    state: State
    here: Reach
    firsts: Sequence[int]
    tests: int
    bytes: int


def _test(
    course: _Course, trees: Mapping[str, BuildTree], priors: Mapping[str, int] | None
) -> list[_Course]:
    """How it goes on behind one more test; empty if the search has ended."""
    state = course.state
    suspected = state.line[state.low : state.high + 1]
    choice = choose(state, course.here.costs(build.commit for build in suspected), priors)
    if choice is None:
        return []
    commit = choice.candidate.commit
    here = course.here.holding([trees[commit].tree]) if commit in trees else course.here
    size = course.bytes + (choice.cost or 0)
    by_verdict = {
        state.options.new: [first for first in course.firsts if first <= choice.index],
        state.options.old: [first for first in course.firsts if first > choice.index],
    }
    return [
        _Course(apply_event(state, Answered(commit, verdict)), here, firsts, course.tests + 1, size)
        for verdict, firsts in by_verdict.items()
        if firsts
    ]
