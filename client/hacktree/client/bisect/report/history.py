"""What is known of each build of a bisection's lines, for drawing them. Pure."""

from enum import StrEnum

import msgspec

from hacktree.client.bisect.core.model import Verdict
from hacktree.client.bisect.core.state import Evidence, State, Votes


class Known(StrEnum):
    """How it is known: somebody said so at the start; a test said so; it follows from others;
    said to be skipped; not known yet, perhaps with votes already."""

    TOLD = "told"
    TESTED = "tested"
    FOLLOWS = "follows"
    SKIPPED = "skipped"
    OPEN = "open"


class Stretch(msgspec.Struct, frozen=True):
    """Builds of a line from `first` to `last`, both included, of which the same is known.

    `verdict`: None while it is open. Whoever was tested, told or voted on stands alone.
    """

    first: int
    last: int
    verdict: Verdict | None
    known: Known
    votes: Votes | None = None

    @property
    def count(self) -> int:
        """Builds in it."""
        return self.last - self.first + 1


def levels(state: State) -> tuple[State, ...]:
    """The lines that were searched, each as it stands, the coarsest first."""
    found: list[State] = []
    level: State | None = state
    while level is not None:
        found.append(level)
        level = level.above
    return tuple(reversed(found))


def stretches(state: State) -> tuple[Stretch, ...]:
    """The line in as few stretches as say all that is known, oldest first."""
    found: list[Stretch] = []
    for index in range(len(state.line)):
        one = _look(state, index)
        if found and _same(found[-1], one):
            found[-1] = Stretch(found[-1].first, one.last, one.verdict, one.known)
        else:
            found.append(one)
    return tuple(found)


def _same(one: Stretch, other: Stretch) -> bool:
    alone = (Known.TOLD, Known.TESTED)
    return (
        one.known not in alone
        and one.votes is None
        and other.votes is None
        and (one.verdict, one.known) == (other.verdict, other.known)
    )


def _look(state: State, index: int) -> Stretch:
    build = state.line[index]
    votes = state.votes.get(build.commit)
    if state.wrong is not None and state.wrong.candidate == build:
        return Stretch(index, index, state.wrong.answered, Known.TESTED, votes)
    verdict = state.known(index)
    evidence = {state.low: state.low_evidence, state.high: state.high_evidence}.get(index)
    if evidence is not None:
        known = Known.TESTED if evidence is Evidence.TESTED else Known.TOLD
    elif votes is not None and max(votes.old, votes.new) >= state.options.majority:
        known = Known.TESTED
    elif verdict is None:
        known = Known.OPEN
    elif state.above is None and index in (0, len(state.line) - 1):
        known = Known.TOLD
    else:
        known = Known.SKIPPED if verdict is Verdict.SKIP else Known.FOLLOWS
    return Stretch(index, index, verdict, known, votes)
