"""Histories, prices, testers and what they type, for the properties of a bisection."""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hacktree.client.bisect.core.model import (
    Answered,
    Candidate,
    Descended,
    Event,
    Options,
    RangeSkipped,
    Session,
    Terms,
    Undone,
    Verdict,
    Verify,
)
from hacktree.client.bisect.core.state import (
    EventRefusedError,
    Found,
    Inconclusive,
    current_state,
    record,
)
from support.bisecting import make_line

UNTIMED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Properties are about values, not about how fast a busy machine makes them."""


@dataclass(frozen=True)
class History:
    """A line of builds, of which `culprit` is the index of the first new one."""

    line: tuple[Candidate, ...]
    culprit: int
    costs: dict[str, int]
    priors: dict[str, int]
    broken: frozenset[int]
    """Builds between the ends that can't be tested."""

    def __repr__(self) -> str:
        return f"History({len(self.line)}, {self.culprit}, broken={sorted(self.broken)})"


@st.composite
def histories(draw: st.DrawFn, most: int = 130) -> History:
    """Two to `most` builds; prices of none, some or all are known, and priors of a few."""
    line = make_line(draw(st.integers(2, most)))
    indices = st.integers(0, len(line) - 1)
    chance = Random(draw(st.integers(0, 1 << 32)))  # Drawn one by one they would take long.
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    costs = {
        build.commit: chance.choice([0, chance.randrange(1, 400)]) * 1_000_000
        for build in line
        if chance.random() < share
    }
    priors = draw(st.dictionaries(indices, st.integers(1, 1_000_000), max_size=4))
    start, length = draw(indices), draw(st.integers(0, len(line) // 4))
    broken = draw(st.frozensets(indices, max_size=6)) | frozenset(range(start, start + length))
    return History(
        line,
        draw(st.integers(1, len(line) - 1)),
        costs,
        {line[index].commit: weight for index, weight in priors.items()},
        frozenset(index for index in broken if 0 < index < len(line) - 1),
    )


searches = st.builds(
    Options, find_fix=st.booleans(), strict_midpoint=st.booleans(), verify=st.just(Verify.NEVER)
)
"""Ways to search that test each build once and no end."""

FINE = make_line(60, "fastqa")
COARSE = make_line(12, "dailyqa", {index: FINE[5 * index].commit for index in range(12)})
STRANGER = make_line(1, "stranger")[0]


class Typed(NamedTuple):
    """What somebody types, sensible or not: of which builds it is depends on where one stands."""

    kind: str
    place: int
    other: int
    verdict: Verdict
    time: int
    note: str

    def event(self, session: Session) -> Event:
        """The event that it comes to."""
        state = current_state(session)
        line = state.line
        open_builds = line[state.low : state.high + 1]
        first, last = line[self.place % len(line)], line[self.other % len(line)]
        match self.kind:
            case "test":
                tested = open_builds[self.place % len(open_builds)]
                return Answered(tested.commit, self.verdict, self.time, self.note)
            case "answer":
                return Answered(first.commit, self.verdict, self.time, self.note)
            case "strange":
                return Answered(STRANGER.commit, self.verdict, self.time, self.note)
            case "range":
                return RangeSkipped(first.commit, last.commit, self.time, self.note)
            case "descend":
                start = 5 * (self.place % 11)
                return Descended(FINE[start : start + 6], self.time)
        return Undone(self.time)


commands = st.lists(
    st.builds(
        Typed,
        st.sampled_from([*["test"] * 6, "answer", "strange", "range", "descend", "undo"]),
        st.integers(0, 59),
        st.integers(0, 59),
        st.sampled_from([*[Verdict.GOOD, Verdict.BAD] * 3, Verdict.SKIP]),
        st.integers(0, 2_000_000_000),
        st.sampled_from(["", "it hangs", "it's \"# odd\" 'here'", "日本 \\ $(x)"]),
    ),
    max_size=20,
)


ways = st.builds(
    Options,
    find_fix=st.booleans(),
    votes=st.sampled_from([1, 1, 3]),
    verify=st.sampled_from(Verify),
    terms=st.sampled_from([Terms(), Terms("fast", "slow")]),
)


def obey(session: Session, typed: Iterable[Typed]) -> Session:
    """The session after all that is not refused, and a descent where one fits."""
    for one in typed:
        try:
            session = record(session, one.event(session))
        except EventRefusedError:
            continue
        session = descend(session)
    return session


def descend(session: Session) -> Session:
    """As the driver does: into the finer branch as soon as the coarse one is searched."""
    state = current_state(session)
    low, high = state.before.promoted_from, state.line[state.high].promoted_from
    if isinstance(state.outcome, Found | Inconclusive) and low and high:
        first, last = (
            next(i for i, build in enumerate(FINE) if build.commit == commit)
            for commit in (low, high)
        )
        return record(session, Descended(FINE[first : last + 1]))
    return session
