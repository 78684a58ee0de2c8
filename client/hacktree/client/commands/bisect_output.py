"""What `hacktree bisect` shows: of each step, and of how the search stands."""

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from hacktree.client.bisect.candidate import how_to_answer
from hacktree.client.bisect.core.choice import Choice, Purpose, describe_choice
from hacktree.client.bisect.core.model import Candidate, Options, Session
from hacktree.client.bisect.core.state import (
    Evidence,
    Found,
    Inconclusive,
    Outcome,
    State,
    current_state,
)
from hacktree.client.bisect.driver import Finished, Listener, Ready, Standing, under_test
from hacktree.client.bisect.holding import describe_held
from hacktree.client.bisect.report.history import levels
from hacktree.client.bisect.store import Saved, Step
from hacktree.client.commands.bisect_documents import status_document
from hacktree.client.progress import TerminalProgress
from hacktree.client.pull import PullReport
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.output import emit_json, format_time, say, show
from hacktree.common.objects.moments import display_day
from hacktree.common.objects.names import display_text
from hacktree.common.repository.config import format_size

_SHOWN_SUSPECTS = 20
_NOTHING: Mapping[str, object] = MappingProxyType({})


class ShownSteps(Listener):
    """Tells a person, on standard output, what is done."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args

    def say(self, line: str) -> None:
        """A line."""
        say(self._args, line)

    def chosen(self, choice: Choice) -> None:
        """Which build is next, what it takes to bring it, and what was traded."""
        why = {
            Purpose.END: ", an end that nobody has tested",
            Purpose.VOTE: ", which lacks votes",
            Purpose.SEARCH: "",
        }[choice.purpose]
        size = "" if choice.cost is None else f": {_bring(choice.cost)}"
        say(self._args, f"Next: {describe_build(choice.candidate)}{why}{size}")
        if traded := describe_choice(choice, format_size):
            say(self._args, f"  {traded}")

    def descended(self, low: Candidate, high: Candidate, line: Sequence[Candidate]) -> None:
        """Where the search goes on."""
        say(
            self._args,
            f"Nothing is left to test between {describe_build(low)} and {describe_build(high)}; "
            f"going on in {line[0].branch}, between what they were promoted from: "
            f"{count(len(line) - 1, 'build')}",
        )

    @property
    def pulling(self) -> PullReport:
        """A bar, where standard error is a terminal."""
        if sys.stderr.isatty() and not self._args.quiet and not self._args.json:
            columns = shutil.get_terminal_size().columns
            return TerminalProgress(sys.stderr, time.monotonic, columns)
        return PullReport()


def _bring(size: int) -> str:
    return f"about {format_size(size)} to bring" if size else "it is here"


def describe_build(build: Candidate) -> str:
    """'fastqa 12 47.3 (3f9c21ab7, 2026-11-23)'."""
    version = f" {build.version}" if build.version else ""
    day = display_day(build.time)
    return f"{build.branch} {build.sequence}{version} ({build.commit[:9]}, {day})"


def count(number: int, noun: str) -> str:
    """'1 build', '2 builds'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show_narrowed(args: argparse.Namespace, saved: Saved) -> None:
    """After an answer: how many builds and tests are left."""
    state = current_state(saved.session)
    if state.outcome is None:
        say(args, narrowed(state))


def narrowed(state: State) -> str:
    """'Narrowed to 12 builds (~4 tests left)'."""
    suspects, left = len(state.suspects), state.answers_left
    return f"Narrowed to {count(suspects, 'build')} (~{count(left, 'test')} left)"


def say_imported(args: argparse.Namespace, options: Options) -> None:
    """Whose the answers are that came in a file, if any did."""
    if options.imported:
        say(
            args,
            "These tests may be another machine's: with which scripts, extensions and layers they "
            "were made, nobody can tell here.",
        )


def show_standing(
    args: argparse.Namespace,
    sysroot: Sysroot,
    standing: Standing,
    more: Mapping[str, object] = _NOTHING,
) -> None:
    """What a step led to: a build that waits for its test, or the end; `more` is for JSON."""
    if args.json:
        emit_json({**status_document(sysroot, standing.saved, verbose=args.verbose), **more})
    elif isinstance(standing, Finished):
        show_outcome(args, standing.saved, standing.outcome)
    else:
        _show_ready(args, standing)


def _show_ready(args: argparse.Namespace, ready: Ready) -> None:
    terms = ready.saved.session.options.terms
    where = "is live" if ready.saved.session.options.deploy else "is ready"
    say(args, f"{ready.root} {where}: {describe_build(ready.candidate)}")
    say(args, f"Test it, then: {how_to_answer(terms)}. A shell in it: hacktree enter {ready.root}")


def show_outcome(args: argparse.Namespace, saved: Saved, outcome: Outcome) -> None:
    """How the search ended."""
    for line in describe_outcome(saved.session, outcome):
        show(line)
    say(args, "`hacktree bisect report` says what changed, `hacktree bisect reset` ends it.")


def describe_outcome(session: Session, outcome: Outcome) -> list[str]:
    """The result in a few lines."""
    options = session.options
    old, new = options.terms.word(options.old), options.terms.word(options.new)
    if isinstance(outcome, Found):
        return [
            f"First {new} build: {describe_build(outcome.first)}",
            f"Last {old} build:  {describe_build(outcome.before)}",
        ]
    if isinstance(outcome, Inconclusive):
        shown = [f"  {describe_build(build)}" for build in outcome.suspects[:_SHOWN_SUSPECTS]]
        more = len(outcome.suspects) - len(shown)
        return [
            f"No answer: only skipped builds are left. Any of these may be the first {new} one:",
            *shown,
            *([f"  and {more} more"] if more else []),
        ]
    said = options.terms.word(outcome.answered)
    return [
        f"{describe_build(outcome.candidate)} was tested and is {said}: what is looked for is not "
        "between the two ends. Begin again with another one, or take the answer back."
    ]


def show_status(
    args: argparse.Namespace, sysroot: Sysroot, saved: Saved, hints: Mapping[str, str]
) -> None:
    """`hacktree bisect status`; `hints`: what the farm's suites said of builds, by commit."""
    if args.json:
        emit_json(status_document(sysroot, saved, hints, verbose=args.verbose))
        return
    session = saved.session
    state = current_state(session)
    show(
        f"Bisecting {state.line[0].branch} of {session.remote} since "
        f"{format_time(session.created)}: {count(state.tests, 'test')} made"
    )
    for above in reversed(levels(state)[:-1]):
        show(f"  {above.line[0].branch}: after {describe_build(above.before)}")
    terms, options = session.options.terms, session.options
    ends = (
        (options.old, state.low, state.low_evidence),
        (options.new, state.high, state.high_evidence),
    )
    for verdict, index, evidence in ends:
        known = "" if evidence is Evidence.TESTED else f", {evidence.value}"
        show(f"  {terms.word(verdict):<8} {describe_build(state.line[index])}{known}")
    if args.verbose:
        for index, build in enumerate(state.line):
            show(f"  {_mark(state, index):<8} {describe_build(build)}{_said(build, hints)}")
    show(f"  constant {describe_held(options.constant)}")
    if state.outcome is not None:
        show_outcome(args, saved, state.outcome)
        return
    show(f"  {narrowed(state)}")
    roots = read_roots(sysroot)
    _show_intent(saved, roots.current, roots.running, hints)


def _said(build: Candidate, hints: Mapping[str, str]) -> str:
    """What the farm's suites said of a build; foreign text, of which no line may be its own."""
    said = display_text(hints.get(build.commit, ""))
    return f" [farm: {said}]" if said else ""


def _show_intent(
    saved: Saved, live: str | None, running: str | None, hints: Mapping[str, str]
) -> None:
    intent, candidate = saved.local.intent, under_test(saved)
    if intent is None or candidate is None:
        show("No build is under test: `hacktree bisect next` brings the next one.")
        return
    if not intent.root or intent.step is not Step.TESTING:
        show(f"{describe_build(candidate)} is not ready: `hacktree bisect next` goes on with it.")
        return
    places = []
    if running == intent.root:
        places.append("you are in it")
    elif live == intent.root:
        places.append("live")
    elif saved.session.options.deploy:
        places.append("NOT live: `hacktree bisect next` deploys it again")
    where = f" ({', '.join(places)})" if places else ""
    show(
        f"Under test: {describe_build(candidate)} in {intent.root}{where}{_said(candidate, hints)}"
    )
    show(f"How is it? {how_to_answer(saved.session.options.terms)}")


def _mark(state: State, index: int) -> str:
    known = state.known(index)
    return "?" if known is None else state.options.terms.word(known)
