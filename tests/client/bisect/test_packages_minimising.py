"""Delta debugging: what it finds breaks, nothing of it can be left out, few tests are needed."""

from collections.abc import Callable
from itertools import pairwise
from math import ceil, log2

from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.client.bisect.components.implications import close, group, needs_of_groups
from hacktree.client.bisect.components.minimising import Minimal, Outcome, minimise

Answer = Callable[[frozenset[int]], Outcome]


def search(count: int, answer: Answer) -> tuple[Minimal, int]:
    """The result for changes 0 to count - 1, and how many different sets were tested."""
    known: dict[frozenset[int], Outcome] = {
        frozenset(): Outcome.PASSES,
        frozenset(range(count)): Outcome.FAILS,
    }
    tested = set()

    def test(changes: frozenset[int]) -> Outcome:
        if changes not in known:
            tested.add(changes)
            known[changes] = answer(changes)
        return known[changes]

    return minimise(range(count), test), len(tested)


def breaks_with(culprits: frozenset[int]) -> Answer:
    return lambda changes: Outcome.FAILS if culprits <= changes else Outcome.PASSES


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_culprits_are_found_in_few_tests(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 150))
    culprits = data.draw(st.frozensets(st.integers(0, count - 1), min_size=1, max_size=4))
    found, tests = search(count, breaks_with(culprits))
    assert found == Minimal(tuple(sorted(culprits)))
    depth = ceil(log2(count))
    if len(culprits) == 1:
        assert tests <= depth + 1
    else:
        assert tests <= len(culprits) * (depth + 1) + len(culprits) ** 2 + 2 * len(culprits)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.randoms(use_true_random=False), st.integers(0, 3))
def test_any_answers_give_a_minimal_set_that_breaks(
    count: int, random: object, unresolved: int
) -> None:
    choices = [Outcome.PASSES, Outcome.FAILS, *[Outcome.UNRESOLVED] * unresolved]
    answers: dict[frozenset[int], Outcome] = {
        frozenset(): Outcome.PASSES,
        frozenset(range(count)): Outcome.FAILS,
    }

    def answer(changes: frozenset[int]) -> Outcome:
        return answers.setdefault(changes, random.choice(choices))  # type: ignore[attr-defined]

    found, _ = search(count, answer)
    whole = frozenset(found.changes)
    assert answers[whole] is Outcome.FAILS
    for one in found.changes:
        outcome = answers[whole - {one}]
        expected = Outcome.UNRESOLVED if one in found.doubtful else Outcome.PASSES
        assert outcome is expected


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_culprit_among_what_cannot_be_tested_is_found_if_the_rest_can(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(2, 40))
    culprit = data.draw(st.integers(0, count - 1))
    broken = data.draw(st.sets(st.integers(1, count - 1), max_size=3))

    def answer(changes: frozenset[int]) -> Outcome:
        # Some sizes can't be tested, unless it is the culprit alone or all but it.
        if len(changes) in broken and len(changes) not in (1, count - 1):
            return Outcome.UNRESOLVED
        return Outcome.FAILS if culprit in changes else Outcome.PASSES

    found, _ = search(count, answer)
    assert found == Minimal((culprit,))


needs = st.integers(1, 30).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.dictionaries(st.integers(0, count - 1), st.sets(st.integers(0, count - 1), max_size=3)),
    )
)


@settings(max_examples=60, deadline=None)
@given(needs)
def test_groups_need_only_those_before_them(drawn: tuple[int, dict[int, set[int]]]) -> None:
    count, wanted = drawn
    groups = group(count, wanted)
    assert sorted(one for members in groups for one in members) == list(range(count))
    of_groups = needs_of_groups(groups, wanted)
    for at, others in of_groups.items():
        assert all(other < at for other in others)
    for members in groups:
        for one, other in pairwise(members):
            # They need one another, by some way.
            assert other in close({one}, wanted)
            assert one in close({other}, wanted)
    assert all(
        members[0] not in close({other[0]}, wanted) or other[0] not in close({members[0]}, wanted)
        for members, other in pairwise(groups)
    )
