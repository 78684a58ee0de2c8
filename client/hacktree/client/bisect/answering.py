"""Taking answers: which build they are about, and the events that they make of a session."""

from collections.abc import Sequence

from hacktree.client.bisect.core.model import (
    MAX_TEXT,
    Answered,
    Candidate,
    Event,
    RangeSkipped,
    Session,
    Undone,
    Verdict,
)
from hacktree.client.bisect.core.state import current_state, record
from hacktree.client.bisect.driver import Machine, under_test, write_answered
from hacktree.client.bisect.farm.lines import find_candidate, find_range
from hacktree.client.bisect.store import Saved, Step
from hacktree.client.roots import read_roots
from hacktree.common.errors import UserError


class NothingUnderTestError(UserError):
    """No build waits for an answer."""


class WentOnError(UserError):
    """Another command went on with the bisection while this one waited for it."""


def require_same(seen: Saved, saved: Saved) -> None:
    """Raise `WentOnError` if the bisection is no longer as whoever answers has seen it: the build
    under test may be another one."""
    if seen != saved:
        raise WentOnError(
            "another command went on with the bisection meanwhile: nothing was changed",
            hint="`hacktree bisect status` says which build is under test now.",
        )


def answer(
    machine: Machine, saved: Saved, verdict: Verdict, names: Sequence[str] = (), note: str = ""
) -> Saved:
    """Take a verdict on the build under test, or on those that are named; SKIP takes ranges A..B.

    All or none of them are taken. Raises `NothingUnderTestError`, `NoSuchBuildError`,
    `EventRefusedError`.
    """
    note = one_line(note)
    line = current_state(saved.session).line
    events: list[Event] = []
    for text in names:
        first, last = find_range(line, text) if verdict is Verdict.SKIP else (None, None)
        if first is not None and last is not None and first != last:
            events.append(RangeSkipped(first.commit, last.commit, machine.now, note))
        else:
            commit = find_candidate(line, text).commit
            events.append(Answered(commit, verdict, machine.now, note))
    if not names:
        asked = _asked(machine, saved, verdict)
        events.append(Answered(asked.commit, verdict, machine.now, note))
    session = saved.session
    for event in events:
        session = record(session, event)
    return write_answered(machine, saved, session)


def undo(machine: Machine, saved: Saved) -> Saved:
    """Take the last answer back; raises `EventRefusedError` if there is none."""
    return write_answered(machine, saved, record(saved.session, Undone(machine.now)))


def previous_verdict(session: Session) -> Verdict | None:
    """The last answer that was given, taken back or not."""
    answers = [event.verdict for event in session.events if isinstance(event, Answered)]
    return answers[-1] if answers else None


def one_line(note: str) -> str:
    """A note as an event may hold it."""
    shown = "".join(c if c.isprintable() else " " for c in note)
    return shown[:MAX_TEXT]


def _asked(machine: Machine, saved: Saved, verdict: Verdict) -> Candidate:
    """The build that an answer is about which names none."""
    candidate, intent = under_test(saved), saved.local.intent
    if candidate is None or intent is None:
        if current_state(saved.session).outcome is not None:
            raise NothingUnderTestError(
                "the search has ended: no build waits for an answer",
                hint="`hacktree bisect status` shows the result, `hacktree bisect undo` takes the "
                "last answer back.",
            )
        raise NothingUnderTestError(
            "no build waits for an answer",
            hint="`hacktree bisect next` brings the next one; or name the build.",
        )
    if verdict is Verdict.SKIP:
        return candidate
    if intent.step is not Step.TESTING:
        raise NothingUnderTestError(
            f"{candidate} is not deployed yet",
            hint="`hacktree bisect next` goes on with it, `hacktree bisect skip` leaves it out.",
        )
    if saved.session.options.deploy:
        live = read_roots(machine.sysroot).current
        if live != intent.root:
            raise NothingUnderTestError(
                f"{live or 'no root'} is live, not {intent.root} with the build under test",
                hint="`hacktree bisect next` deploys it again; or name the build that you tested: "
                f"hacktree bisect … {candidate.commit[:12]}",
            )
    return candidate
