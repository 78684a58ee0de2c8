"""How a bisection stands: the fold of a session's events over its line of builds. Pure.

`current_state` is the only way to a `State`, and `record` the only way to another event: an event
that makes no sense where the bisection stands raises and changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace  # noqa: TID251 - of State
from enum import StrEnum

import msgspec

from hacktree.client.bisect.core.model import (
    MAX_EVENTS,
    Answered,
    Candidate,
    Descended,
    Event,
    Options,
    RangeSkipped,
    Session,
    Undone,
    Verdict,
    Verify,
)
from hacktree.common.errors import UserError


class EventRefusedError(UserError):
    """An answer, skip, undo or descent makes no sense where the bisection stands.

    `position`: which of a session's events it is, counted from 0, where several were looked at.
    """

    position = 0


class End(StrEnum):
    """One end of the builds that are still suspected."""

    LOW = "low"
    HIGH = "high"


class Evidence(StrEnum):
    """Why an end is believed to be what it is: somebody said so at the start, and perhaps found
    that it can't be tested; or it was tested."""

    TOLD = "told"
    UNTESTABLE = "untestable"
    TESTED = "tested"


class Votes(msgspec.Struct, frozen=True):
    """How often a build was found like the old end and like the new one."""

    old: int = 0
    new: int = 0


class Found(msgspec.Struct, frozen=True):
    """`first` is the first build that is like the new end; `before`, the last like the old, stands
    right before it. So `first` is the first bad build, or with find_fix the first good one."""

    before: Candidate
    first: Candidate


class Inconclusive(msgspec.Struct, frozen=True):
    """Any of `suspects` may be the first: all but the last of them were skipped."""

    before: Candidate
    suspects: tuple[Candidate, ...]


class EndpointWrong(msgspec.Struct, frozen=True):
    """An end was tested and is not what it was said to be: what is looked for is not in the line.

    `answered`: what the test said of it.
    """

    end: End
    candidate: Candidate
    answered: Verdict


Outcome = Found | Inconclusive | EndpointWrong
StandingEvent = Answered | RangeSkipped | Descended


@dataclass(frozen=True, slots=True)
class State:
    """Where a bisection stands. Indices count the builds of `line`, oldest first.

    Builds up to `low` are old, builds from `high` on are new; those between were not decided, and
    `skipped` are some of them. `votes`: answers by commit, of this line. `budget`: builds that are
    tested at most from here on, without skips and ends. `tests`: answers so far, in every line.
    `above`: how the coarser line ended that this one came from.
    """

    options: Options
    line: tuple[Candidate, ...]
    low: int
    high: int
    budget: int
    low_evidence: Evidence = Evidence.TOLD
    high_evidence: Evidence = Evidence.TOLD
    skipped: frozenset[int] = frozenset()
    votes: Mapping[str, Votes] = field(default_factory=dict)
    tests: int = 0
    wrong: EndpointWrong | None = None
    above: "State | None" = None
    positions: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    """The index of each commit of the line."""

    @property
    def before(self) -> Candidate:
        """The newest build that is known to be old."""
        return self.line[self.low]

    @property
    def last(self) -> Candidate:
        """The oldest build that is known to be new: the newest suspect."""
        return self.line[self.high]

    @property
    def suspects(self) -> tuple[Candidate, ...]:
        """The builds of which one is the first new one; skipped ones count."""
        return self.line[self.low + 1 : self.high + 1]

    @property
    def testable(self) -> tuple[int, ...]:
        """Indices of the builds whose test would narrow the suspects."""
        between = range(self.low + 1, self.high)
        return tuple(index for index in between if index not in self.skipped)

    @property
    def results(self) -> int:
        """How many results the tests of this line can still tell apart: each build that can be
        tested may be the last old one, or none of them is."""
        return self.high - self.low - len(self.skipped)

    @property
    def due_ends(self) -> tuple[int, ...]:
        """Indices of the ends that are to be tested now, before anything else."""
        verify = self.options.verify
        if verify is Verify.NEVER or (verify is Verify.LAST and self.results > 1):
            return ()
        ends = ((self.low, self.low_evidence), (self.high, self.high_evidence))
        return tuple(index for index, evidence in ends if evidence is Evidence.TOLD)

    @property
    def outcome(self) -> Outcome | None:
        """How the search in this line ended; None while there is something to test."""
        if self.wrong is not None:
            return self.wrong
        if self.results > 1 or self.due_ends:
            return None
        if self.high - self.low == 1:
            return Found(self.before, self.last)
        return Inconclusive(self.before, self.suspects)

    @property
    def tests_left(self) -> int:
        """Builds that are still to be tested at most, if none has to be skipped; with votes each
        of them takes up to that many tests."""
        if self.wrong is not None:
            return 0
        return ceil_log2(self.results) + len(self.due_ends)

    @property
    def answers_left(self) -> int:
        """Tests of these builds, if those of one build agree."""
        return self.tests_left * self.options.majority

    def known(self, index: int) -> Verdict | None:
        """What is known of a build, by a test or because it follows; None for nothing."""
        if index <= self.low:
            return self.options.old
        if index >= self.high:
            return self.options.new
        return Verdict.SKIP if index in self.skipped else None

    def find(self, commit: str) -> int:
        """The index of a build of the line, by its whole id; raises `EventRefusedError`."""
        index = self.positions.get(commit)
        if index is not None:
            return index
        raise EventRefusedError(
            f"build {commit[:12]} is not among the {len(self.line)} builds that are searched",
            hint=f"They are {self.line[0]} to {self.line[-1]}.",
        )


def ceil_log2(count: int) -> int:
    """Yes-or-no questions that tell `count` (at least 1) possibilities apart."""
    return (count - 1).bit_length()


def current_state(session: Session) -> State:
    """Where the session stands; raises `EventRefusedError` if its events don't fit its line."""
    state = _enter(session.options, session.line)
    for position, event in _standing(session.events):
        try:
            state = apply_event(state, event)
        except EventRefusedError as error:
            error.position = position
            raise
    return state


def record(session: Session, event: Event) -> Session:
    """The session with one event more; raises `EventRefusedError` if it makes no sense now."""
    if len(session.events) >= MAX_EVENTS:
        raise EventRefusedError(
            f"the bisection has {MAX_EVENTS} events, which is the limit", hint="Start another."
        )
    try:
        msgspec.convert(msgspec.to_builtins(event), Event)
    except msgspec.ValidationError as error:
        raise EventRefusedError(
            f"not an event of a bisection: {error}", hint="Is the clock of this machine right?"
        ) from error
    extended = msgspec.structs.replace(session, events=(*session.events, event))
    current_state(extended)
    return extended


def standing_events(events: Iterable[Event]) -> list[StandingEvent]:
    """The events that were not taken back, in order; raises `EventRefusedError`."""
    return [event for _, event in _standing(events)]


def apply_event(state: State, event: StandingEvent) -> State:
    """The state after one event more, to look ahead; raises `EventRefusedError`."""
    if isinstance(event, Descended):
        return _descend(state, event)
    if state.wrong is not None:
        answered = _word(state, state.wrong.answered)
        raise EventRefusedError(
            f"the search ended: {state.wrong.candidate}, one of its ends, is {answered}",
            hint="`hacktree bisect undo` takes that answer back; else start with another end.",
        )
    if isinstance(event, RangeSkipped):
        return _skip_range(state, event)
    return _answer(state, event)


def _standing(events: Iterable[Event]) -> list[tuple[int, StandingEvent]]:
    standing: list[tuple[int, StandingEvent]] = []
    for position, event in enumerate(events):
        if not isinstance(event, Undone):
            standing.append((position, event))
            continue
        while standing and isinstance(standing[-1][1], Descended):
            standing.pop()
        if not standing:
            error = EventRefusedError(
                "there is no answer to take back", hint="`hacktree bisect reset` ends the search."
            )
            error.position = position
            raise error
        standing.pop()
    return standing


def _enter(options: Options, line: tuple[Candidate, ...]) -> State:
    high = len(line) - 1
    positions = {build.commit: index for index, build in enumerate(line)}
    return State(
        options=options, line=line, low=0, high=high, budget=ceil_log2(high), positions=positions
    )


def _answer(state: State, event: Answered) -> State:
    index = state.find(event.commit)
    _check_answer(state, index, event.verdict)
    state = replace(state, tests=state.tests + 1)
    if event.verdict is Verdict.SKIP:
        return _skip(state, index)
    votes = state.votes.get(event.commit, Votes())
    is_old = event.verdict is state.options.old
    votes = Votes(votes.old + is_old, votes.new + (not is_old))
    state = replace(
        state,
        votes={**state.votes, event.commit: votes},
        skipped=state.skipped - {index},
    )
    if max(votes.old, votes.new) >= state.options.majority:
        state = _decide(state, index, event.verdict)
    return _afford(state)


def _check_answer(state: State, index: int, verdict: Verdict) -> None:
    """An answer is about a build between the ends, or about an end that was not tested yet."""
    build = state.line[index]
    if state.low < index < state.high:
        if verdict is Verdict.SKIP and index in state.skipped:
            raise EventRefusedError(
                f"{build} is skipped already", hint="Test another build, or skip a range: A..B."
            )
        return
    evidence = {state.low: state.low_evidence, state.high: state.high_evidence}.get(index)
    if evidence is Evidence.TOLD:
        return
    if evidence is Evidence.UNTESTABLE and verdict is not Verdict.SKIP:
        return
    old, new = (_word(state, verdict) for verdict in (state.options.old, state.options.new))
    raise EventRefusedError(
        f"{build} is {old if index <= state.low else new} already",
        hint=f"{state.before} is {old} and {state.last} is {new}. "
        "`hacktree bisect undo` takes the last answer back.",
    )


def _decide(state: State, index: int, verdict: Verdict) -> State:
    is_old = verdict is state.options.old
    if index in (state.low, state.high):
        end = End.LOW if index == state.low else End.HIGH
        if is_old != (end is End.LOW):
            return replace(state, wrong=EndpointWrong(end, state.line[index], verdict))
        return _with_evidence(state, end, Evidence.TESTED)
    state = replace(state, budget=state.budget - 1)
    if is_old:
        skipped = frozenset(other for other in state.skipped if other > index)
        return replace(state, low=index, low_evidence=Evidence.TESTED, skipped=skipped)
    skipped = frozenset(other for other in state.skipped if other < index)
    return replace(state, high=index, high_evidence=Evidence.TESTED, skipped=skipped)


def _skip(state: State, index: int) -> State:
    if index in (state.low, state.high):
        end = End.LOW if index == state.low else End.HIGH
        return _with_evidence(state, end, Evidence.UNTESTABLE)
    return replace(state, skipped=state.skipped | {index})


def _skip_range(state: State, event: RangeSkipped) -> State:
    first, last = state.find(event.first), state.find(event.last)
    if first > last:
        raise EventRefusedError(
            f"{state.line[first]} does not come before {state.line[last]}",
            hint="Name the older build first: OLDER..NEWER.",
        )
    between = range(max(first, state.low + 1), min(last + 1, state.high))
    skipped = state.skipped | frozenset(between)
    if skipped == state.skipped:
        raise EventRefusedError(
            f"there is nothing left to test from {state.line[first]} to {state.line[last]}",
            hint=f"The suspects come after {state.before}, up to {state.last}.",
        )
    return replace(state, skipped=skipped)


def _descend(state: State, event: Descended) -> State:
    if not isinstance(state.outcome, Found | Inconclusive):
        raise EventRefusedError(
            f"branch {state.line[0].branch} is not searched yet",
            hint="`hacktree bisect status` says what is to be tested.",
        )
    low, high = state.before, state.last
    if (low.promoted_from, high.promoted_from) != (event.line[0].commit, event.line[-1].commit):
        raise EventRefusedError(
            f"{event.line[0]} to {event.line[-1]} is not what {low} and {high} were promoted from",
            hint="The session's file or log was changed, or is another branch's.",
        )
    return replace(
        _enter(state.options, event.line),
        low_evidence=state.low_evidence,
        high_evidence=state.high_evidence,
        tests=state.tests,
        above=state,
    )


def _with_evidence(state: State, end: End, evidence: Evidence) -> State:
    if end is End.LOW:
        return replace(state, low_evidence=evidence)
    return replace(state, high_evidence=evidence)


def _afford(state: State) -> State:
    """Raise a budget that can't be kept: a person tested another build than was proposed."""
    return replace(state, budget=max(state.budget, ceil_log2(state.results)))


def _word(state: State, verdict: Verdict) -> str:
    return state.options.terms.word(verdict)
