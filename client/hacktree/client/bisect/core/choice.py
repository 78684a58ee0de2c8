"""Which build to test next: the cheapest to bring of those that cost no test more. Pure.

A line of n suspects takes at most ⌈log2 n⌉ tests, its budget. A build may be tested if what it
leaves, whatever the answer, can be told apart by the tests that remain. n is seldom a power of two,
so mostly there are several such builds; skips cost what they cost. ADR 0026.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import accumulate
from typing import Final

import msgspec

from hacktree.client.bisect.core.model import Answered, Candidate, Verdict
from hacktree.client.bisect.core.state import State, apply_event

SAME_SHARE: Final = 8
"""Costs that differ by less than this fraction (an eighth) are the same: they are estimates."""

SAME_BYTES: Final = 1 << 20
"""And so are those that differ by less than this."""


class Purpose(StrEnum):
    """Why a build is tested: to narrow the suspects, for its next vote, or because it is an end."""

    SEARCH = "search"
    VOTE = "vote"
    END = "end"


class Choice(msgspec.Struct, frozen=True):
    """The build to test next, `line[index]`.

    `cost`: bytes to bring it, None if unknown. `middle` and `middle_cost`: the build that strict
    halving would test. `allowed`: among how many builds there was a choice.
    """

    index: int
    candidate: Candidate
    purpose: Purpose
    cost: int | None
    middle: Candidate
    middle_cost: int | None
    allowed: int

    @property
    def saved(self) -> int:
        """Bytes that the strict middle would have cost more; 0 if that is unknown."""
        if self.cost is None or self.middle_cost is None:
            return 0
        return max(0, self.middle_cost - self.cost)


def choose(
    state: State,
    costs: Mapping[str, int] | None = None,
    priors: Mapping[str, int] | None = None,
) -> Choice | None:
    """The build to test next; None when the search in this line ended.

    `costs`: bytes to bring a build, by commit, 0 for what is here; those not named are taken as
    the dearest. `priors`: weights of commits to be the first new one, 1 for those not named. The
    same arguments give the same choice. An end that is due comes first (the low one before the
    high), then a build that lacks votes.
    """
    costs = costs or {}
    if state.outcome is not None:
        return None
    due = state.due_ends
    if due:
        return _only(state, due[0], Purpose.END, costs)
    testable = state.testable
    started = [index for index in testable if state.line[index].commit in state.votes]
    if started:
        return _only(state, started[0], Purpose.VOTE, costs)
    middle = testable[len(testable) // 2]
    if state.options.strict_midpoint:
        return _choice(state, middle, Purpose.SEARCH, costs, middle, 1)
    allowed = _allowed(state)
    best = _cheapest_nearest_middle(state, allowed, costs, priors or {})
    return _choice(state, best, Purpose.SEARCH, costs, middle, len(allowed))


def after_verdict(state: State, index: int, verdict: Verdict) -> State:
    """How it will stand when `line[index]` is found so, for who brings builds ahead.

    With votes it is what follows when they have decided so.
    """
    commit = state.line[index].commit
    for _ in range(state.options.majority if verdict is not Verdict.SKIP else 1):
        if _is_open(state, index):
            state = apply_event(state, Answered(commit, verdict))
    return state


def describe_choice(choice: Choice, size: Callable[[int], str]) -> str:
    """What was traded, in words; empty if nothing was. `size` formats bytes."""
    if choice.candidate == choice.middle or not choice.saved:
        return ""
    cost = size(choice.cost) if choice.cost else "nothing"
    return (
        f"{cost} to bring instead of {size(choice.middle_cost or 0)} for the build in the middle, "
        "same worst case"
    )


def _is_open(state: State, index: int) -> bool:
    return state.outcome is None and (
        index in state.testable or index in state.skipped or index in state.due_ends
    )


def _allowed(state: State) -> tuple[int, ...]:
    """Builds that leave, on either side, no more than the budget's other tests tell apart."""
    most = 1 << (state.budget - 1)
    return state.testable[max(0, state.results - most - 1) : most]


def _cheapest_nearest_middle(
    state: State, allowed: tuple[int, ...], costs: Mapping[str, int], priors: Mapping[str, int]
) -> int:
    known = {index: costs.get(state.line[index].commit) for index in allowed}
    cheapest = min((cost for cost in known.values() if cost is not None), default=None)
    if cheapest is not None:
        limit = cheapest + max(cheapest // SAME_SHARE, SAME_BYTES)
        allowed = tuple(i for i in allowed if (cost := known[i]) is not None and cost <= limit)
    weights = [priors.get(build.commit, 1) for build in state.suspects]
    sums = list(accumulate(weights, initial=0))
    # `sums[i - low]` is the weight of the suspects up to build i: what stays if it is new.
    return min(
        allowed, key=lambda i: (abs(2 * sums[i - state.low] - sums[-1]), abs(_off(state, i)), i)
    )


def _off(state: State, index: int) -> int:
    return 2 * index - state.low - state.high


def _only(state: State, index: int, purpose: Purpose, costs: Mapping[str, int]) -> Choice:
    return _choice(state, index, purpose, costs, index, 1)


def _choice(
    state: State,
    index: int,
    purpose: Purpose,
    costs: Mapping[str, int],
    middle: int,
    allowed: int,
) -> Choice:
    candidate, central = state.line[index], state.line[middle]
    return Choice(
        index=index,
        candidate=candidate,
        purpose=purpose,
        cost=costs.get(candidate.commit),
        middle=central,
        middle_cost=costs.get(central.commit),
        allowed=allowed,
    )
