"""A bisection is always in a state that its events explain; what makes no sense is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.bisect.strategies import COARSE, FINE, STRANGER, UNTIMED, Typed, commands, obey, ways
from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import (
    Answered,
    Candidate,
    Descended,
    Event,
    NoteInvalidError,
    Options,
    RangeSkipped,
    Session,
    TermInvalidError,
    Terms,
    Undone,
    Verdict,
    Verify,
)
from hacktree.client.bisect.core.state import (
    End,
    EndpointWrong,
    EventRefusedError,
    Evidence,
    Found,
    Inconclusive,
    State,
    Votes,
    ceil_log2,
    current_state,
    record,
    standing_events,
)
from hacktree.common.errors import UserError
from hacktree.common.objects.errors import FormatError
from support.bisecting import make_line, make_session, search

GOOD, BAD, SKIP = Verdict.GOOD, Verdict.BAD, Verdict.SKIP


def explain(session: Session) -> None:
    """The state follows from the standing events by rules simpler than those that keep it."""
    state = current_state(session)
    assert 0 <= state.low < state.high <= len(state.line) - 1
    assert all(state.low < index < state.high for index in state.skipped)
    assert set(state.testable) == set(range(state.low + 1, state.high)) - state.skipped
    assert state.budget >= (len(state.testable)).bit_length()
    standing = standing_events(session.events)
    assert state.tests == sum(isinstance(event, Answered) for event in standing)
    descents = [i for i, event in enumerate(standing) if isinstance(event, Descended)]
    here = standing[descents[-1] + 1 :] if descents else standing
    answered = [event for event in here if isinstance(event, Answered)]
    decided = {
        build.commit: verdict
        for build in state.line
        for verdict in (GOOD, BAD)
        if [e.verdict for e in answered if e.commit == build.commit].count(verdict)
        >= state.options.majority
    }
    old = [i for i, b in enumerate(state.line) if decided.get(b.commit) is state.options.old]
    new = [i for i, b in enumerate(state.line) if decided.get(b.commit) is state.options.new]
    if state.wrong is None:
        assert state.low == max([0, *old])
        assert state.high == min([len(state.line) - 1, *new])
    assert (state.outcome is None) == (choose(state) is not None)
    _explain_outcome(state)


def _explain_outcome(state: State) -> None:
    match state.outcome:
        case Found(before, first):
            assert state.line[state.low : state.high + 1] == (before, first)
        case Inconclusive(before, suspects):
            assert (before, *suspects) == state.line[state.low : state.high + 1]
            assert len(suspects) == len(state.skipped) + 1
        case EndpointWrong(end, candidate, answered):
            index = 0 if end is End.LOW else len(state.line) - 1
            assert candidate == state.line[index]
            assert answered is (state.options.new if end is End.LOW else state.options.old)
        case None:
            assert state.testable or state.due_ends


@UNTIMED
@given(ways, commands)
def test_any_commands_leave_a_state_that_its_events_explain(
    options: Options, typed: list[Typed]
) -> None:
    """Whatever a person types, or a file says; what is refused has changed nothing."""
    session = make_session(COARSE, options)
    for one in typed:
        before, state = session, current_state(session)
        session = obey(session, [one])
        explain(session)
        if session.events == before.events:
            assert current_state(session) == state


@UNTIMED
@given(ways, commands, commands)
def test_undo_takes_back_what_the_last_answer_did(
    options: Options, past: list[Typed], more: list[Typed]
) -> None:
    """After an answer and an undo all is as it was, descents included."""
    session = obey(make_session(COARSE, options), past)
    for one in more:
        if isinstance(one.event(session), Undone | Descended):
            continue
        after = obey(session, [one])
        if after.events != session.events:
            assert current_state(record(after, Undone())) == current_state(session)
        session = after


@UNTIMED
@given(ways, commands)
def test_undoing_everything_leads_back_to_the_start(options: Options, typed: list[Typed]) -> None:
    """As often as there are answers that stand; then there is nothing to take back."""
    start = make_session(COARSE, options)
    session = obey(start, typed)
    answers = [e for e in standing_events(session.events) if not isinstance(e, Descended)]
    for _ in answers:
        session = record(session, Undone())
    with pytest.raises(EventRefusedError, match="no answer to take back"):
        record(session, Undone())
    left = standing_events(session.events)
    assert all(isinstance(event, Descended) for event in left)
    if not left:
        assert current_state(session) == current_state(start)


@st.composite
def promotions(draw: st.DrawFn) -> tuple[tuple[Candidate, ...], ...]:
    """Three branches, coarse first, each promoted from some builds of the next."""
    lines = [make_line(draw(st.integers(2, 80)), "builds")]
    for branch in ("fastqa", "dailyqa"):
        finer = lines[0]
        some = draw(st.frozensets(st.integers(0, len(finer) - 1), max_size=12))
        places = sorted(some | {0, len(finer) - 1})
        sources = {index: finer[place].commit for index, place in enumerate(places)}
        lines.insert(0, make_line(len(places), branch, sources))
    return tuple(lines)


@UNTIMED
@given(promotions(), st.data())
def test_a_search_goes_on_in_finer_branches(
    lines: tuple[tuple[Candidate, ...], ...], data: st.DataObject
) -> None:
    """From the neighbours that were found to the builds between those they were promoted from.

    The culprit of the finest branch is found, in ⌈log2⌉ tests a branch and one for each end.
    """
    options = Options(find_fix=data.draw(st.booleans()), verify=data.draw(st.sampled_from(Verify)))
    finest = lines[-1]
    culprit = data.draw(st.integers(1, len(finest) - 1))
    origins = {build.commit: index for index, build in enumerate(finest)}
    for line in lines[-2::-1]:
        origins |= {build.commit: origins[build.promoted_from] for build in line}

    def truth(state: State, index: int) -> Verdict:
        is_new = origins[state.line[index].commit] >= culprit
        return options.new if is_new else options.old

    session = search(make_session(lines[0], options), truth)
    most = 2 + ceil_log2(len(lines[0]) - 1)
    for finer in lines[1:]:
        state = current_state(session)
        assert isinstance(state.outcome, Found)
        commits = [build.commit for build in finer]
        first = commits.index(state.outcome.before.promoted_from)
        last = commits.index(state.outcome.first.promoted_from)
        session = record(session, Descended(finer[first : last + 1]))
        after = current_state(session)
        assert after.above == state
        assert (after.low_evidence, after.high_evidence) == (
            state.low_evidence,
            state.high_evidence,
        )
        most += ceil_log2(last - first)
        session = search(session, truth)
    state = current_state(session)
    assert state.outcome == Found(finest[culprit - 1], finest[culprit])
    assert state.tests <= most


def _events(*events: Event) -> Session:
    session = make_session(COARSE, Options(verify=Verify.NEVER))
    for event in events:
        session = record(session, event)
    return session


def _answer(index: int, verdict: Verdict, line: tuple[Candidate, ...] = COARSE) -> Answered:
    return Answered(line[index].commit, verdict)


def _skip(first: int, last: int) -> RangeSkipped:
    return RangeSkipped(COARSE[first].commit, COARSE[last].commit)


FOUND = (_answer(5, GOOD), _answer(6, BAD))
REFUSED: dict[str, tuple[tuple[Event, ...], Event, str]] = {
    "good above a bad one": ((_answer(5, BAD),), _answer(7, GOOD), "is bad already"),
    "bad below a good one": ((_answer(5, GOOD),), _answer(3, BAD), "is good already"),
    "what is known": ((_answer(5, GOOD),), _answer(5, GOOD), "is good already"),
    "a skip of what is known": ((_answer(5, GOOD),), _answer(5, SKIP), "is good already"),
    "another build": ((), Answered(STRANGER.commit, GOOD), "not among the 12 builds"),
    "a second skip": ((_answer(5, SKIP),), _answer(5, SKIP), "skipped already"),
    "an answer at the end": (FOUND, _answer(6, GOOD), "is bad already"),
    "an undo of nothing": ((), Undone(), "no answer to take back"),
    "a second undo of one answer": ((_answer(5, GOOD), Undone()), Undone(), "no answer"),
    "a range turned round": ((), _skip(7, 3), "does not come before"),
    "a range of known builds": ((_answer(5, GOOD),), _skip(0, 5), "nothing left to test"),
    "a descent before the end": ((), Descended(FINE[25:31]), "not searched yet"),
    "a descent elsewhere": (FOUND, Descended(FINE[20:31]), "is not what"),
    "an answer after a wrong end": (
        (_answer(0, BAD),),
        _answer(5, GOOD),
        "the search ended: dailyqa 1",
    ),
    "an event out of bounds": ((), Undone(time=-1), "not an event"),
}


@pytest.mark.parametrize(("past", "event", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_nonsense_is_refused(past: tuple[Event, ...], event: Event, reason: str) -> None:
    """By an error that says why, for the command line to show."""
    session = _events(*past)
    with pytest.raises(EventRefusedError, match=reason) as refusal:
        record(session, event)
    assert refusal.value.hint


def test_a_descent_needs_builds_that_were_promoted() -> None:
    """A branch that nothing feeds has no finer one."""
    line = make_line(3)
    session = make_session(line, Options(verify=Verify.NEVER))
    session = record(session, _answer(1, GOOD, line))
    with pytest.raises(EventRefusedError, match="not what"):
        record(session, Descended(FINE[:3]))


def test_skipping_everything_is_inconclusive() -> None:
    """The suspects are named, as git does: each skipped build and the first that is known bad."""
    session = _events(_answer(2, GOOD), _answer(6, BAD), _skip(0, 11))
    assert current_state(session).outcome == Inconclusive(COARSE[2], COARSE[3:7])
    session = record(session, _answer(4, BAD))
    assert current_state(session).outcome == Inconclusive(COARSE[2], COARSE[3:5])
    session = record(session, _answer(3, BAD))
    assert current_state(session).outcome == Found(COARSE[2], COARSE[3])


def test_an_end_that_was_wrong_ends_the_search() -> None:
    """At any time, since nothing that follows from it holds; undo goes back."""
    session = _events(_answer(4, GOOD), _answer(11, GOOD))
    wrong = EndpointWrong(End.HIGH, COARSE[11], GOOD)
    assert current_state(session).outcome == wrong
    assert current_state(session).tests_left == 0
    assert current_state(record(session, Undone())).outcome is None


def test_an_end_that_cannot_be_tested_is_believed() -> None:
    """And said to be: it is asked for once only."""
    line = COARSE[:2]
    session = make_session(line, Options(verify=Verify.FIRST))
    session = record(session, _answer(0, SKIP))
    state = current_state(session)
    assert (state.low_evidence, state.due_ends) == (Evidence.UNTESTABLE, (1,))
    session = record(session, _answer(1, BAD))
    assert current_state(session).outcome == Found(*line)
    with pytest.raises(EventRefusedError):
        record(session, _answer(0, SKIP))
    session = record(session, _answer(0, GOOD))
    assert current_state(session).low_evidence is Evidence.TESTED


def test_what_is_known_of_each_build() -> None:
    """By tests and by what follows from them; for who draws the line."""
    session = make_session(COARSE, Options(votes=3, verify=Verify.NEVER))
    for event in (_answer(3, GOOD), _answer(3, BAD), _answer(3, GOOD), _skip(5, 5)):
        session = record(session, event)
    session = record(session, _answer(6, BAD))
    state = current_state(session)
    known = [state.known(index) for index in range(12)]
    assert known == [*[GOOD] * 4, None, SKIP, *[None] * 5, BAD]
    assert state.votes == {COARSE[3].commit: Votes(2, 1), COARSE[6].commit: Votes(0, 1)}
    assert (state.before, state.suspects) == (COARSE[3], COARSE[4:])


def test_a_fix_is_found_with_the_roles_turned_round() -> None:
    """The line begins bad and ends good; answers are what they are."""
    session = make_session(COARSE, Options(find_fix=True, verify=Verify.NEVER))
    session = record(session, _answer(6, GOOD))
    session = record(session, _answer(5, BAD))
    assert current_state(session).outcome == Found(COARSE[5], COARSE[6])
    with pytest.raises(EventRefusedError, match="is good already"):
        record(session, _answer(7, BAD))


def test_terms_are_words_for_the_two_verdicts() -> None:
    """The session's own words, in answers and messages; the plain words are understood, too."""
    terms = Terms("fast", "slow")
    assert [terms.parse(word) for word in ("fast", "slow", "skip")] == [GOOD, BAD, SKIP]
    assert [terms.parse(word) for word in ("good", "bad")] == [GOOD, BAD]
    assert [terms.word(verdict) for verdict in Verdict] == ["fast", "slow", "skip"]
    assert terms.parse("fine") is None
    session = make_session(COARSE, Options(terms=terms))
    with pytest.raises(EventRefusedError, match="is fast already"):
        record(record(session, _answer(5, GOOD)), _answer(4, BAD))


@pytest.mark.parametrize(
    "words",
    [
        ("", "bad"),
        ("good", "skip"),
        ("next", "bad"),
        ("answer", "prompt"),
        ("a b", "bad"),
        ("same", "same"),
        ("bad", "good"),
        ("-x", "yes"),
        ("b", "bad"),
        ("fine", "u"),
        ("quit", "bad"),
        ("enter", "bad"),
    ],
)
def test_terms_that_would_be_mixed_up_are_refused(words: tuple[str, str]) -> None:
    """Subcommands, options, what the prompt asks for, the plain words turned round."""
    with pytest.raises(TermInvalidError):
        Terms(*words)


def test_an_even_number_of_votes_is_refused() -> None:
    """It could end in a tie."""
    with pytest.raises(UserError, match="tie"):
        Options(votes=2)


@pytest.mark.parametrize("note", ["two\nlines", "\x1b[2J", "x" * 1001])
def test_a_note_is_one_printable_line(note: str) -> None:
    """It goes to other people's terminals."""
    with pytest.raises(NoteInvalidError):
        Answered(COARSE[0].commit, GOOD, 0, note)


LINES = {
    "one build": COARSE[:1],
    "newest first": COARSE[::-1],
    "a build twice": (COARSE[0], COARSE[0]),
    "a commit twice": (COARSE[0], msgspec.structs.replace(COARSE[1], commit=COARSE[0].commit)),
    "two branches": (COARSE[0], FINE[5]),
    "no branch": make_line(2, "../up"),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_line_is_of_one_branch_oldest_first(line: tuple[Candidate, ...]) -> None:
    """Anything else can't be searched."""
    with pytest.raises(FormatError):
        make_session(line)
    with pytest.raises(FormatError):
        Descended(line)
