"""Lines of builds in memory, and testers who answer for them."""

from collections.abc import Callable, Mapping
from hashlib import sha256

from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import (
    Answered,
    Candidate,
    Options,
    Session,
    Verdict,
)
from hacktree.client.bisect.core.state import State, current_state, record


def make_line(
    count: int, branch: str = "builds", promoted: Mapping[int, str] | None = None
) -> tuple[Candidate, ...]:
    """Builds 1 to `count` of a branch, oldest first; `promoted`: of which commit, by index."""
    return tuple(
        Candidate(
            commit=sha256(f"{branch} {number}".encode()).hexdigest(),
            branch=branch,
            sequence=number,
            time=1_700_000_000 + 3600 * number,
            version=f"47.{number}",
            promoted_from=(promoted or {}).get(number - 1, ""),
        )
        for number in range(1, count + 1)
    )


def make_session(line: tuple[Candidate, ...], options: Options | None = None) -> Session:
    """A session over these builds that nobody has answered for."""
    return Session("5e" * 16, "origin", 1_700_000_000, options or Options(), line)


Tester = Callable[[State, int], Verdict]
"""What a test says of the build with this index."""


def truthful(culprit: int, broken: frozenset[int] = frozenset()) -> Tester:
    """Says what is so: builds from `culprit` on are new; those in `broken` can't be tested."""

    def test(state: State, index: int) -> Verdict:
        if index in broken:
            return Verdict.SKIP
        return state.options.new if index >= culprit else state.options.old

    return test


def search(
    session: Session,
    tester: Tester,
    costs: Mapping[str, int] | None = None,
    priors: Mapping[str, int] | None = None,
) -> Session:
    """The session after testing what `choose` says until the line is searched."""
    while True:
        state = current_state(session)
        choice = choose(state, costs, priors)
        if choice is None:
            return session
        verdict = tester(state, choice.index)
        session = record(session, Answered(choice.candidate.commit, verdict))
