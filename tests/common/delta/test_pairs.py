"""Promise: any of 64 builds is reached from any other in at most 8 packs, either way."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.delta.pairs import (
    MAX_STEPS,
    WINDOW,
    Build,
    Pair,
    pairs_of_newest,
    wanted_pairs,
)
from hacktree.common.objects.ids import ObjectId, hash_bytes


def tree(number: int) -> ObjectId:
    return hash_bytes(str(number).encode())


def history(newest: int, count: int = WINDOW) -> list[Build]:
    return [Build(n, tree(n)) for n in range(newest, newest - count, -1)]


def farthest(pairs: list[Pair], start: ObjectId) -> dict[ObjectId, int]:
    """Packs on the shortest route from `start` to every tree."""
    leads: dict[ObjectId, list[ObjectId]] = {}
    for old, new in pairs:
        leads.setdefault(old, []).append(new)
    steps, waiting = {start: 0}, deque([start])
    while waiting:
        here = waiting.popleft()
        for there in leads.get(here, ()):
            if there not in steps:
                steps[there] = steps[here] + 1
                waiting.append(there)
    return steps


@given(st.integers(64, 100_000))
def test_any_two_of_64_builds_are_8_packs_apart_either_way(newest: int) -> None:
    builds = history(newest)
    pairs = wanted_pairs(builds)
    for build in builds:
        steps = farthest(pairs, build.tree)
        assert len(steps) == WINDOW
        assert max(steps.values()) <= MAX_STEPS


@given(st.integers(1, 200), st.integers(1, 64))
def test_a_young_branch_is_connected_too(newest: int, count: int) -> None:
    builds = history(newest, min(count, newest))
    for build in builds:
        steps = farthest(wanted_pairs(builds), build.tree)
        assert len(steps) == len(builds)
        assert max(steps.values()) <= MAX_STEPS


def test_packs_made_as_builds_come_are_those_of_the_whole_history() -> None:
    """A farm that runs after every build ends with what one run over all would make."""
    made: set[Pair] = set()
    for newest in range(1, 200):
        made.update(pairs_of_newest(history(newest, min(newest, WINDOW))))
    assert made.issuperset(wanted_pairs(history(199)))


def test_a_build_costs_few_packs() -> None:
    """Fourteen for the dearest of eight builds, both ways together; fewer than five on average."""
    pairs = wanted_pairs(history(64))
    assert len(pairs) <= 5 * WINDOW
    assert max(len(pairs_of_newest(history(n))) for n in range(64, 128)) <= 14


def test_the_step_from_the_build_before_comes_first() -> None:
    pairs = wanted_pairs(history(64, 8))
    assert pairs[0] == (tree(63), tree(64))
    assert pairs_of_newest(history(64, 8))[0] == (tree(63), tree(64))
    assert pairs.index((tree(57), tree(58))) < pairs.index((tree(60), tree(64)))
    assert pairs.index((tree(60), tree(64))) < pairs.index((tree(64), tree(63)))


def test_equal_trees_need_no_pack() -> None:
    same = [Build(3, tree(1)), Build(2, tree(1)), Build(1, tree(0))]
    assert set(wanted_pairs(same)) == {(tree(0), tree(1)), (tree(1), tree(0))}
    assert wanted_pairs([]) == pairs_of_newest([]) == []
