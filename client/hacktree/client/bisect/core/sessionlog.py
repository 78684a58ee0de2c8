"""A session as a log that people read, edit and replay, like git's. docs/bisect.md, "The log".

Pure. Lines that begin with `#` are for people. Every other line is a command: first `start`, then
one for each event in order. Comments say what the session's own words are for good and bad.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from hacktree.client.bisect.core.model import (
    MAX_EVENTS,
    MAX_VOTES,
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
from hacktree.client.bisect.core.state import EventRefusedError, current_state
from hacktree.common.errors import HacktreeError, UserError
from hacktree.common.objects.moments import display_time, machine_time
from hacktree.common.objects.names import BranchName, display_text, parse_branch_name

COMMAND: Final = ("hacktree", "bisect")
MAX_LOG_SIZE: Final = 4 << 20
"""Characters of a log."""

_COMMIT = re.compile(r"[0-9a-f]{64}")
_SWITCHES: Final[dict[str, dict[str, bool]]] = {
    "--find-fix": {"find_fix": True},
    "--strict-midpoint": {"strict_midpoint": True},
    "--no-deploy": {"deploy": False},
}
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_STAMP: Final = re.compile(r"#\s*([0-9T:-]+Z)\s*$")


class LogInvalidError(UserError):
    """A log of a bisection can't be read, or doesn't fit the builds."""


class Descent(msgspec.Struct, frozen=True):
    """The search went on in `branch`, from the commit `first` to `last`."""

    branch: BranchName
    first: str
    last: str
    time: int = 0


class Entry(msgspec.Struct, frozen=True):
    """An event of a log, and the number of its line."""

    line: int
    event: Answered | RangeSkipped | Undone | Descent


class Log(msgspec.Struct, frozen=True):
    """What a log says. `oldest` and `newest`: the commits at the ends of the line in `branch`.

    `options` lacks what the log doesn't name: what candidates are combined with.
    """

    remote: str
    branch: BranchName
    oldest: str
    newest: str
    options: Options
    entries: tuple[Entry, ...]

    @property
    def descents(self) -> tuple[Descent, ...]:
        """The finer lines that a replay needs, in order."""
        return tuple(e.event for e in self.entries if isinstance(e.event, Descent))


def format_log(session: Session) -> str:
    """The log of a session, which `parse_log` reads."""
    return "\n".join(_lines(session)) + "\n"


def parse_log(text: str) -> Log:
    """What a log says; raises `LogInvalidError` that names the line."""
    if len(text) > MAX_LOG_SIZE:
        raise LogInvalidError(f"a log of more than {MAX_LOG_SIZE} characters")
    log: Log | None = None
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words, time = _split(line)
            if not words:
                continue
            if log is None:
                log = _parse_start(words)
            else:
                entries.append(Entry(number, _parse_event(words, time, log.options.terms)))
        except (HacktreeError, ValueError) as error:
            raise _at(number, str(error)) from error
        if len(entries) > MAX_EVENTS:
            raise _at(number, f"more than {MAX_EVENTS} events")
    if log is None:
        raise LogInvalidError("the log has no `start`", hint="`hacktree bisect log` writes one.")
    return Log(log.remote, log.branch, log.oldest, log.newest, log.options, tuple(entries))


def replay_log(
    session: Session, log: Log, lines: Mapping[Descent, tuple[Candidate, ...]]
) -> Session:
    """`session` with the log's events in place of its own; raises `LogInvalidError`.

    The session's line must run from `log.oldest` to `log.newest`; `lines`: the builds of each
    descent of the log.
    """
    ends = (session.line[0].commit, session.line[-1].commit)
    if ends != (log.oldest, log.newest):
        raise LogInvalidError("the log is about other builds than the line begins and ends with")
    events = tuple(_event(entry, lines) for entry in log.entries)
    replayed = msgspec.structs.replace(session, events=events)
    try:
        current_state(replayed)
    except EventRefusedError as error:
        raise _at(log.entries[error.position].line, error.message) from error
    return replayed


def _event(entry: Entry, lines: Mapping[Descent, tuple[Candidate, ...]]) -> Event:
    if not isinstance(entry.event, Descent):
        return entry.event
    try:
        return Descended(lines[entry.event], entry.event.time)
    except KeyError:
        raise _at(entry.line, f"no builds of {entry.event.branch} were given") from None


def _at(number: int, problem: str) -> LogInvalidError:
    return LogInvalidError(
        f"line {number} of the log: {problem}",
        hint="Mend or delete that line; `hacktree bisect log` shows what lines look like.",
    )


def _lines(session: Session) -> Iterator[str]:
    options = session.options
    builds = {build.commit: build for build in session.line}
    oldest, newest = session.line[0], session.line[-1]
    yield f"# {options.terms.word(options.old)}: {_describe(oldest)}"
    yield f"# {options.terms.word(options.new)}: {_describe(newest)}"
    yield _command("start", *_start_words(session))
    for event in session.events:
        match event:
            case Answered():
                word = options.terms.word(event.verdict)
                yield f"# {word}: {_describe(builds.get(event.commit))}"
                yield _stamped(event.time, event.verdict, event.commit, *_note(event.note))
            case RangeSkipped():
                yield f"# skip: {_describe(builds.get(event.first))}"
                yield f"#   to: {_describe(builds.get(event.last))}"
                skipped = f"{event.first}..{event.last}"
                yield _stamped(event.time, "skip", skipped, *_note(event.note))
            case Undone():
                yield _stamped(event.time, "undo")
            case Descended():
                builds.update((build.commit, build) for build in event.line)
                first, last = event.line[0], event.line[-1]
                yield f"# on in {first.branch}: {len(event.line)} builds"
                yield _stamped(event.time, "descend", _name(first), _name(last))


def _start_words(session: Session) -> Iterator[str]:
    options = session.options
    ends = {options.old: session.line[0], options.new: session.line[-1]}
    yield from ("--remote", session.remote)
    yield from ("--good", _name(ends[Verdict.GOOD]), "--bad", _name(ends[Verdict.BAD]))
    yield from ("--votes", str(options.votes), "--verify", options.verify.value)
    if options.terms != Terms():
        yield from ("--term-good", options.terms.good, "--term-bad", options.terms.bad)
    for switch, meaning in _SWITCHES.items():
        if all(getattr(options, name) == value for name, value in meaning.items()):
            yield switch


def _name(build: Candidate) -> str:
    return f"{build.branch}@{build.commit}"


def _describe(build: Candidate | None) -> str:
    if build is None:
        return ""
    version = display_text(build.version)
    when = display_time(build.time)
    return f"{build} {version}, {when}" if version else f"{build} {when}"


def _note(note: str) -> tuple[str, ...]:
    return ("--note", note) if note else ()


def _command(*words: str) -> str:
    return shlex.join((*COMMAND, *words))


def _stamped(time: int, *words: str) -> str:
    return f"{_command(*words)}  # {machine_time(time)}"


def _split(line: str) -> tuple[list[str], int]:
    """The words behind `hacktree bisect`, and the time in the comment at the end, 0 for none."""
    words = shlex.split(line, comments=True)
    if not words:
        return [], 0
    if tuple(words[:2]) != COMMAND or len(words) < 3:
        raise LogInvalidError(f"not a command of {' '.join(COMMAND)}")
    stamp = _STAMP.search(line)
    if stamp is None:
        return words[2:], 0
    moment = datetime.strptime(stamp[1], _TIME).replace(tzinfo=UTC)
    return words[2:], max(0, int(moment.timestamp()))


def _parse_start(words: list[str]) -> Log:
    if words[0] != "start":
        raise LogInvalidError(f"the first command is {words[0]!r}, not 'start'")
    changes: dict[str, bool] = {}
    values = {"--remote": "", "--votes": "1", "--verify": Verify.LAST.value}
    values |= {"--term-good": "good", "--term-bad": "bad"}
    rest = iter(words[1:])
    for word in rest:
        if word in _SWITCHES:
            changes |= _SWITCHES[word]
        elif word in (*values, "--good", "--bad"):
            values[word] = next(rest, "")
        else:
            raise LogInvalidError(f"{word!r} is no option of start")
    good, bad = _parse_name(values.get("--good", "")), _parse_name(values.get("--bad", ""))
    if good[0] != bad[0]:
        raise LogInvalidError(f"the ends are of two branches: {good[0]} and {bad[0]}")
    options = Options(
        terms=Terms(values["--term-good"], values["--term-bad"]),
        votes=int(values["--votes"]),
        verify=Verify(values["--verify"]),
    )
    options = msgspec.structs.replace(options, **changes)
    if not 1 <= options.votes <= MAX_VOTES:
        raise LogInvalidError(f"{options.votes} votes are not 1 to {MAX_VOTES}")
    oldest, newest = (bad, good) if options.find_fix else (good, bad)
    return Log(values["--remote"], good[0], oldest[1], newest[1], options, ())


def _parse_event(
    words: list[str], time: int, terms: Terms
) -> Answered | RangeSkipped | Undone | Descent:
    match words:
        case ["undo"]:
            return Undone(time)
        case ["descend", first, last]:
            (branch, oldest), (other, newest) = _parse_name(first), _parse_name(last)
            if branch != other:
                raise LogInvalidError(f"a descent into two branches: {branch} and {other}")
            return Descent(branch, oldest, newest, time)
        case [word, build]:
            return _parse_answer(word, build, time, "", terms)
        case [word, build, "--note", note]:
            return _parse_answer(word, build, time, note, terms)
    raise LogInvalidError(f"{' '.join(words)[:80]!r} is no event")


def _parse_answer(
    word: str, build: str, time: int, note: str, terms: Terms
) -> Answered | RangeSkipped:
    verdict = terms.parse(word)
    if verdict is None:
        raise LogInvalidError(f"{word[:40]!r} is no answer")
    first, dots, last = build.partition("..")
    if dots and verdict is Verdict.SKIP:
        return RangeSkipped(_parse_commit(first), _parse_commit(last), time, note)
    return Answered(_parse_commit(build), verdict, time, note)


def _parse_name(text: str) -> tuple[BranchName, str]:
    branch, _, commit = text.partition("@")
    return parse_branch_name(branch), _parse_commit(commit)


def _parse_commit(text: str) -> str:
    if not _COMMIT.fullmatch(text):
        raise LogInvalidError(f"{text[:80]!r} is no commit: 64 hexadecimal digits")
    return text
