"""Every first bad build is found in ⌈log2 n⌉ tests, and among such choices the cheapest is made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.bisect.strategies import UNTIMED, History, histories, searches
from hacktree.client.bisect.core.choice import (
    SAME_BYTES,
    SAME_SHARE,
    Purpose,
    after_verdict,
    choose,
    describe_choice,
)
from hacktree.client.bisect.core.model import Answered, Options, Session, Verdict, Verify
from hacktree.client.bisect.core.state import (
    Found,
    Inconclusive,
    State,
    apply_event,
    ceil_log2,
    current_state,
    record,
)
from hacktree.common.repository.config import format_size
from support.bisecting import Tester, make_line, make_session, search, truthful

UNVERIFIED = Options(verify=Verify.NEVER)
MEGABYTE = 1_000_000


def _suspects(history: History) -> int:
    return len(history.line) - 1


@UNTIMED
@given(histories(), searches)
def test_the_first_new_build_is_found_in_log2_tests(history: History, options: Options) -> None:
    """Whatever the history, the culprit, the prices and the priors."""
    session = make_session(history.line, options)
    session = search(session, truthful(history.culprit), history.costs, history.priors)
    state = current_state(session)
    before, first = history.line[history.culprit - 1], history.line[history.culprit]
    assert state.outcome == Found(before, first)
    assert state.tests <= ceil_log2(_suspects(history))


@UNTIMED
@given(histories(), searches)
def test_a_skip_costs_one_test_and_hides_nothing_else(history: History, options: Options) -> None:
    """The result names exactly what no test could tell apart, and the culprit is among it."""
    session = make_session(history.line, options)
    tester = truthful(history.culprit, history.broken)
    session = search(session, tester, history.costs, history.priors)
    state = current_state(session)
    skips = sum(isinstance(e, Answered) and e.verdict is Verdict.SKIP for e in session.events)
    assert state.tests <= ceil_log2(_suspects(history)) + skips
    testable = [i for i in range(len(history.line)) if i not in history.broken]
    low = max(i for i in testable if i < history.culprit)
    high = min(i for i in testable if i >= history.culprit)
    suspects = history.line[low + 1 : high + 1]
    assert history.line[history.culprit] in suspects
    if len(suspects) == 1:
        assert state.outcome == Found(history.line[low], suspects[0])
    else:
        assert state.outcome == Inconclusive(history.line[low], suspects)


@UNTIMED
@given(histories(), searches)
def test_what_is_left_is_never_more_than_was_said(history: History, options: Options) -> None:
    """`tests_left` falls below the budget with every test, and is zero at the end."""
    session = make_session(history.line, options)
    while (choice := choose(current_state(session), history.costs, history.priors)) is not None:
        state = current_state(session)
        assert 0 < state.tests_left <= state.budget
        verdict = truthful(history.culprit)(state, choice.index)
        session = record(session, Answered(choice.candidate.commit, verdict))
        assert current_state(session).tests_left < state.budget
    assert current_state(session).tests_left == 0


def _paths(state: State, history: History) -> list[int]:
    """How many tests each result takes, by following both answers everywhere."""
    choice = choose(state, history.costs, history.priors)
    if choice is None:
        return [0]
    paths = []
    for verdict in (Verdict.GOOD, Verdict.BAD):
        after = apply_event(state, Answered(choice.candidate.commit, verdict))
        paths += [1 + length for length in _paths(after, history)]
    return paths


@UNTIMED
@given(histories(most=70))
def test_the_expected_number_is_within_one_of_the_best_possible(history: History) -> None:
    """For equal chances; the best is the mean depth of a balanced tree. And the worst is ⌈log2⌉."""
    paths = _paths(current_state(make_session(history.line, UNVERIFIED)), history)
    suspects = _suspects(history)
    assert len(paths) == suspects
    full = suspects.bit_length() - 1
    best = full + 2 * (suspects - (1 << full)) / suspects
    assert sum(paths) / suspects <= best + 1
    assert max(paths) <= ceil_log2(suspects)


@UNTIMED
@given(histories(), st.data())
def test_no_cheaper_build_keeps_the_promise(history: History, data: st.DataObject) -> None:
    """At any point: what is much cheaper than the choice would leave too much for one answer."""
    session = _somewhere(history, data)
    state = current_state(session)
    choice = choose(state, history.costs, history.priors)
    if choice is None:
        return
    testable = state.testable
    for place, index in enumerate(testable):
        cost = history.costs.get(history.line[index].commit)
        larger = max(place + 1, len(testable) - place)
        if cost is None or 1 + ceil_log2(larger) > state.budget:
            continue
        assert choice.cost is not None
        assert choice.cost <= cost + max(cost // SAME_SHARE, SAME_BYTES)


def _somewhere(history: History, data: st.DataObject) -> Session:
    """The session after some of its tests."""
    session = make_session(history.line, UNVERIFIED)
    tester = truthful(history.culprit, history.broken)
    for _ in range(data.draw(st.integers(0, 5))):
        state = current_state(session)
        choice = choose(state, history.costs, history.priors)
        if choice is None:
            break
        verdict = tester(state, choice.index)
        session = record(session, Answered(choice.candidate.commit, verdict))
    return session


@UNTIMED
@given(histories(), st.data())
def test_what_is_foreseen_is_chosen(history: History, data: st.DataObject) -> None:
    """A build that is brought ahead is the one that is tested next."""
    session = _somewhere(history, data)
    state = current_state(session)
    choice = choose(state, history.costs, history.priors)
    if choice is None:
        return
    for verdict in Verdict:
        foreseen = after_verdict(state, choice.index, verdict)
        after = current_state(record(session, Answered(choice.candidate.commit, verdict)))
        assert choose(foreseen, history.costs, history.priors) == choose(
            after, history.costs, history.priors
        )


@UNTIMED
@given(histories(), st.data())
def test_any_order_of_tests_ends_at_the_culprit(history: History, data: st.DataObject) -> None:
    """A person may test other builds than are proposed; what is left is reckoned anew."""
    session = make_session(history.line, UNVERIFIED)
    while (state := current_state(session)).outcome is None:
        index = data.draw(st.sampled_from(state.testable))
        verdict = truthful(history.culprit)(state, index)
        session = record(session, Answered(history.line[index].commit, verdict))
        assert current_state(session).budget >= current_state(session).tests_left
    assert state.outcome == Found(history.line[history.culprit - 1], history.line[history.culprit])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 33, 64, 65])
def test_without_costs_the_middle_is_tested(count: int, strict: bool) -> None:  # noqa: FBT001
    """The middle leaves as many suspects on one side as on the other, give or take one."""
    options = Options(strict_midpoint=strict, verify=Verify.NEVER)
    state = current_state(make_session(make_line(count + 1), options))
    choice = choose(state)
    assert choice is not None
    assert choice.purpose is Purpose.SEARCH
    assert choice.index in (count // 2, (count + 1) // 2)


def test_a_strict_midpoint_minds_no_price() -> None:
    """`--strict-midpoint` turns the trade off."""
    line = make_line(41)
    costs = {build.commit: MEGABYTE * (100 if i == 20 else 10) for i, build in enumerate(line)}
    strict = Options(strict_midpoint=True, verify=Verify.NEVER)
    choice = choose(current_state(make_session(line, strict)), costs, {line[30].commit: 1000})
    assert choice is not None
    assert (choice.index, choice.cost, choice.saved) == (20, 100 * MEGABYTE, 0)
    assert describe_choice(choice, format_size) == ""


def test_the_trade_is_told() -> None:
    """40 suspects leave slack: a build that costs less than the middle is taken, and it is said."""
    line = make_line(41)
    costs = {build.commit: 61 * MEGABYTE for build in line} | {line[11].commit: 14 * MEGABYTE}
    choice = choose(current_state(make_session(line, UNVERIFIED)), costs)
    assert choice is not None
    assert (choice.index, choice.middle.sequence, choice.allowed) == (11, 21, 25)
    assert describe_choice(choice, format_size) == (
        "14.0 MB to bring instead of 61.0 MB for the build in the middle, same worst case"
    )
    costs[line[30].commit] = 0
    choice = choose(current_state(make_session(line, UNVERIFIED)), costs)
    assert choice is not None
    assert choice.index == 30
    assert "nothing to bring instead of 61.0 MB" in describe_choice(choice, format_size)


def test_no_price_is_worth_a_test_more() -> None:
    """Of 64 suspects only the middle leaves six tests, so it is taken whatever it costs."""
    line = make_line(65)
    costs = {build.commit: 0 for build in line} | {line[32].commit: 10**12}
    choice = choose(current_state(make_session(line, UNVERIFIED)), costs)
    assert choice is not None
    assert (choice.index, choice.allowed) == (32, 1)


def test_prices_that_hardly_differ_are_the_same() -> None:
    """Estimates are not worth an uneven split."""
    line = make_line(41)
    costs = {build.commit: 60 * MEGABYTE for build in line} | {line[11].commit: 55 * MEGABYTE}
    choice = choose(current_state(make_session(line, UNVERIFIED)), costs)
    assert choice is not None
    assert choice.index == 20


def test_priors_move_the_middle() -> None:
    """Where the culprit is likely, the tests are; but only as far as the worst case allows."""
    line = make_line(41)
    state = current_state(make_session(line, UNVERIFIED))
    likely = choose(state, {}, {line[12].commit: 1000})
    assert likely is not None
    assert likely.index in (11, 12)
    beyond = choose(state, {}, {line[2].commit: 1000})
    assert beyond is not None
    assert beyond.index == 8


@UNTIMED
@given(
    histories(most=60),
    st.sampled_from([3, 5]),
    st.sampled_from(Verify),
    st.lists(st.booleans(), max_size=40),
)
def test_votes_outweigh_a_test_that_lies_sometimes(
    history: History, votes: int, verify: Verify, moods: list[bool]
) -> None:
    """As long as most of a build's votes are true the culprit is found, ends and all."""
    options = Options(votes=votes, verify=verify)
    lies: dict[int, int] = {}

    def flaky(state: State, index: int) -> Verdict:
        truth = truthful(history.culprit)(state, index)
        if moods and moods.pop() and lies.get(index, 0) < votes // 2:
            lies[index] = lies.get(index, 0) + 1
            return Verdict.BAD if truth is Verdict.GOOD else Verdict.GOOD
        return truth

    session = search(make_session(history.line, options), flaky, history.costs)
    state = current_state(session)
    before, first = history.line[history.culprit - 1], history.line[history.culprit]
    assert state.outcome == Found(before, first)
    builds = ceil_log2(_suspects(history)) + 2
    assert state.tests <= builds * options.majority + sum(lies.values())
    assert all(max(v.old, v.new) == options.majority for v in state.votes.values())


def test_a_build_is_asked_for_until_its_votes_decide() -> None:
    """Two of three are enough; the third is asked for only if the first two differ."""
    line = make_line(9)
    session = make_session(line, Options(votes=3, verify=Verify.NEVER))

    def chosen() -> tuple[int, Purpose]:
        choice = choose(current_state(session))
        assert choice is not None
        return choice.index, choice.purpose

    assert chosen() == (4, Purpose.SEARCH)
    session = record(session, Answered(line[4].commit, Verdict.GOOD))
    assert chosen() == (4, Purpose.VOTE)
    session = record(session, Answered(line[4].commit, Verdict.BAD))
    assert chosen() == (4, Purpose.VOTE)
    foreseen = after_verdict(current_state(session), 4, Verdict.BAD)
    session = record(session, Answered(line[4].commit, Verdict.BAD))
    assert chosen() == (2, Purpose.SEARCH)
    assert choose(foreseen) == choose(current_state(session))


def test_a_vote_for_a_skipped_build_takes_it_back_in() -> None:
    """It can be tested after all, so its other votes are asked for."""
    line = make_line(9)
    session = make_session(line, Options(votes=3, verify=Verify.NEVER))
    session = record(session, Answered(line[3].commit, Verdict.SKIP))
    session = record(session, Answered(line[3].commit, Verdict.GOOD))
    choice = choose(current_state(session))
    assert choice is not None
    assert (choice.index, choice.purpose) == (3, Purpose.VOTE)
    session = record(session, Answered(line[3].commit, Verdict.SKIP))
    choice = choose(current_state(session))
    assert choice is not None
    assert (choice.index, choice.purpose) == (4, Purpose.SEARCH)


ANSWERS: dict[str, Tester] = {
    "the low end": lambda state, _: state.options.new,
    "the high end": lambda state, _: state.options.old,
}


@pytest.mark.parametrize("tester", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("count", [2, 3, 50])
def test_the_ends_are_tested_where_it_is_asked(tester: Tester, count: int) -> None:
    """First: before anything else, the older end first. Last: when nothing else is left. Never:
    not at all."""
    line = make_line(count)
    asked: dict[Verify, list[Purpose]] = {}
    for verify in Verify:
        purposes = asked.setdefault(verify, [])
        session = make_session(line, Options(verify=verify))
        while (choice := choose(current_state(session))) is not None:
            purposes.append(choice.purpose)
            verdict = tester(current_state(session), choice.index)
            session = record(session, Answered(choice.candidate.commit, verdict))
    assert Purpose.END not in asked[Verify.NEVER]
    assert asked[Verify.FIRST][0] is Purpose.END
    assert Purpose.SEARCH not in asked[Verify.FIRST]
    first = choose(current_state(make_session(line, Options(verify=Verify.FIRST))))
    assert first is not None
    assert first.index == 0
    assert asked[Verify.LAST].index(Purpose.END) == len(asked[Verify.NEVER])
