"""A bisection's result with all that belongs to it, as data, which other modules show.

Pure. Texts are as the farm and the testers wrote them: who shows them escapes them.
"""

from collections.abc import Mapping

import msgspec

from hacktree.client.bisect.core.model import Answered, Candidate, RangeSkipped, Session, Verdict
from hacktree.client.bisect.core.state import (
    EndpointWrong,
    Evidence,
    Found,
    Inconclusive,
    State,
    standing_events,
)
from hacktree.client.bisect.report.history import Stretch, levels, stretches
from hacktree.client.bisect.report.verdict import Difference, metadata_text
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.diff import CHANGE_NAMES
from hacktree.common.objects.packages import METADATA_KEY


class Report(msgspec.Struct, frozen=True):
    """A session, how it stands, and what `last` changes against `before`.

    `before` and `last` are the ends of what is suspected: of a search that found its build, the
    last one before and the build itself. Of each the commit if it is here. `difference` is None
    unless both builds are here, which `missing` tells. `hints`: what the farm's tests said of
    builds, by commit.
    """

    session: Session
    state: State
    before_commit: Commit | None = None
    last_commit: Commit | None = None
    difference: Difference | None = None
    missing: str = ""
    hints: Mapping[str, str] = {}

    @property
    def before(self) -> Candidate:
        """The newest build that is like the old end."""
        return self.state.before

    @property
    def last(self) -> Candidate:
        """The newest suspect."""
        return self.state.last

    @property
    def old_word(self) -> str:
        """The word for what the builds were."""
        return self.session.options.terms.word(self.session.options.old)

    @property
    def new_word(self) -> str:
        """The word for what they became."""
        return self.session.options.terms.word(self.session.options.new)


def headline(report: Report) -> str:
    """The result in a sentence."""
    old, new, state = report.old_word, report.new_word, report.state
    match state.outcome:
        case Found(before, first):
            return f"{first} is the first {new} build, {before} the last {old} one"
        case Inconclusive(before, suspects):
            return (
                f"one of {len(suspects)} builds is the first {new} one: {suspects[0]} to "
                f"{suspects[-1]}, of which all but the last were skipped; {before} is the last "
                f"{old} one"
            )
        case EndpointWrong(_, candidate, answered):
            word = report.session.options.terms.word(answered)
            said = new if word == old else old
            return f"{candidate} was said to be {said} and is {word}: no answer lies in this line"
        case _:
            return (
                f"not found yet: {len(state.suspects)} builds are suspected, "
                f"about {state.answers_left} tests left"
            )


def doubts(report: Report) -> tuple[str, ...]:
    """What the result rests on that nobody tested, or not in the same way."""
    state = report.state
    if not isinstance(state.outcome, Found | Inconclusive):
        return ()
    ends = (
        (report.before, state.low_evidence, report.old_word),
        (report.last, state.high_evidence, report.new_word),
    )
    options, unlike = state.options, []
    if options.mixed:
        unlike.append("builds were tested with different scripts, extensions or layers")
    if options.imported:
        unlike.append(
            "answers came in a file, perhaps from another machine: with which scripts, extensions "
            "and layers they were given is not known here"
        )
    return tuple(unlike) + tuple(
        f"{build} was only said to be {word}"
        + (": it can't be tested" if evidence is Evidence.UNTESTABLE else ", not tested")
        for build, evidence, word in ends
        if evidence is not Evidence.TESTED
    )


def answers(session: Session) -> list[Answered | RangeSkipped]:
    """What testers said and did not take back, in order."""
    events = standing_events(session.events)
    return [event for event in events if isinstance(event, Answered | RangeSkipped)]


class Said(msgspec.Struct, frozen=True):
    """An answer of a tester: of which builds, in words; `note` is theirs."""

    verdict: Verdict
    word: str
    build: str
    time: int
    note: str


def list_answers(report: Report) -> list[Said]:
    """The answers that stand, in order."""
    builds = {one.commit: one for level in levels(report.state) for one in level.line}
    found = []
    for event in answers(report.session):
        if isinstance(event, Answered):
            verdict, build = event.verdict, str(builds[event.commit])
        else:
            verdict, build = Verdict.SKIP, f"{builds[event.first]} to {builds[event.last]}"
        word = report.session.options.terms.word(verdict)
        found.append(Said(verdict, word, build, event.time, event.note))
    return found


def as_document(report: Report) -> dict[str, object]:
    """The report as JSON; names are those that other commands use."""
    session, state = report.session, report.state
    found = isinstance(state.outcome, Found)
    document: dict[str, object] = {
        "session": session.id,
        "remote": session.remote,
        "started": session.created,
        "terms": {"old": report.old_word, "new": report.new_word},
        "outcome": _outcome_name(state),
        "headline": headline(report),
        "doubts": list(doubts(report)),
        "tests": state.tests,
        "tests-left": state.answers_left,
        "last-" + Verdict(session.options.old).value: _build(report.before, report.before_commit),
        "first-" + Verdict(session.options.new).value: (
            _build(report.last, report.last_commit) if found else None
        ),
        "suspects": [build.commit for build in state.suspects],
        "answers": [_answer(event) for event in answers(session)],
        "lines": [_line(level, report.hints) for level in levels(state)],
        "difference": None if report.difference is None else _difference(report.difference),
    }
    if report.missing:
        document["missing"] = report.missing
    return document


def _outcome_name(state: State) -> str:
    match state.outcome:
        case Found():
            return "found"
        case Inconclusive():
            return "inconclusive"
        case EndpointWrong():
            return "endpoint-wrong"
        case _:
            return "searching"


def _build(build: Candidate, commit: Commit | None) -> dict[str, object]:
    document: dict[str, object] = {
        "commit": build.commit,
        "branch": build.branch,
        "sequence": build.sequence,
        "time": build.time,
        "version": build.version,
        "promoted-from": build.promoted_from or None,
    }
    if commit is not None:
        document |= {
            "subject": commit.subject,
            "body": commit.body,
            "architecture": commit.architecture,
            "metadata": {
                name: metadata_text(value)
                for name, value in commit.metadata.items()
                if name != METADATA_KEY
            },
        }
    return document


def _answer(event: Answered | RangeSkipped) -> dict[str, object]:
    if isinstance(event, Answered):
        what: dict[str, object] = {"commit": event.commit, "verdict": event.verdict.value}
    else:
        what = {"first": event.first, "last": event.last, "verdict": Verdict.SKIP.value}
    return {**what, "time": event.time, "note": event.note}


def _line(level: State, hints: Mapping[str, str]) -> dict[str, object]:
    return {
        "branch": level.line[0].branch,
        "builds": len(level.line),
        "stretches": [_stretch(level, one, hints) for one in stretches(level)],
    }


def _stretch(level: State, one: Stretch, hints: Mapping[str, str]) -> dict[str, object]:
    document: dict[str, object] = {
        "first": level.line[one.first].commit,
        "last": level.line[one.last].commit,
        "builds": one.count,
        "verdict": None if one.verdict is None else one.verdict.value,
        "known": one.known.value,
    }
    if one.votes is not None:
        document["votes"] = {
            level.options.old.value: one.votes.old,
            level.options.new.value: one.votes.new,
        }
    said = {
        build.commit: hints[build.commit]
        for build in level.line[one.first : one.last + 1]
        if build.commit in hints
    }
    if said:
        document["farm"] = said
    return document


def _difference(difference: Difference) -> dict[str, object]:
    packages = difference.packages
    return {
        "paths": list(difference.patterns),
        "files": [
            {
                "path": file.path,
                "change": CHANGE_NAMES[file.letter],
                "size": [file.old_size, file.new_size],
                "packages": list(file.packages),
            }
            for file in difference.files
        ],
        "other-files": difference.other_files,
        "owners-known": difference.owned,
        "packages": None if packages is None else packages.as_document(),
        "other-packages": difference.other_packages,
        "metadata": {one.name: [one.old, one.new] for one in difference.metadata},
        "bytes": [difference.old_bytes, difference.new_bytes],
        "new-content": difference.content,
    }
