"""A log that is replayed gives the session that wrote it; one that can't be is refused by line."""

import re
import shlex
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.bisect.strategies import COARSE, FINE, UNTIMED, Typed, commands, descend, obey, ways
from hacktree.client.bisect.core.encoding import check_events, decode_struct, encode_struct
from hacktree.client.bisect.core.model import (
    MAX_EVENTS,
    Answered,
    Candidate,
    Descended,
    Options,
    RangeSkipped,
    Session,
    Terms,
    Undone,
    Verdict,
    Verify,
)
from hacktree.client.bisect.core.sessionlog import (
    Descent,
    LogInvalidError,
    format_log,
    parse_log,
    replay_log,
)
from hacktree.client.bisect.core.state import current_state, record
from hacktree.common.objects.errors import FormatError
from support.bisecting import make_line, make_session


def _fine(descent: Descent) -> tuple[Candidate, ...]:
    """The builds of a descent, as the driver reads them from the remote."""
    commits = [build.commit for build in FINE]
    assert descent.branch == "fastqa"
    return FINE[commits.index(descent.first) : commits.index(descent.last) + 1]


def decode_session(data: bytes) -> Session:
    session = decode_struct(data, Session)
    check_events(session)
    return session


def _replay(text: str, session: Session) -> Session:
    log = parse_log(text)
    fresh = make_session(session.line, log.options)
    return replay_log(fresh, log, {descent: _fine(descent) for descent in log.descents})


@UNTIMED
@given(ways, commands)
def test_a_replayed_log_gives_the_same_session(options: Options, typed: list[Typed]) -> None:
    """Events, notes, times, undone answers and descents; as a file, too."""
    session = obey(make_session(COARSE, options), typed)
    replayed = _replay(format_log(session), session)
    assert replayed == session
    assert current_state(replayed) == current_state(session)
    assert decode_session(encode_struct(session)) == session


OPTIONS = Options(
    terms=Terms("fast", "slow"),
    find_fix=True,
    votes=3,
    verify=Verify.FIRST,
    strict_midpoint=True,
    deploy=False,
)


def test_what_was_asked_for_is_in_the_log() -> None:
    """Every option of the start but what candidates are combined with."""
    log = parse_log(format_log(make_session(COARSE, OPTIONS)))
    assert log.options == OPTIONS
    assert (log.remote, log.branch) == ("origin", "dailyqa")
    assert (log.oldest, log.newest) == (COARSE[0].commit, COARSE[-1].commit)


def _descended() -> Session:
    session = make_session(COARSE, Options(verify=Verify.NEVER))
    session = record(session, Answered(COARSE[5].commit, Verdict.GOOD))
    return descend(record(session, Answered(COARSE[6].commit, Verdict.BAD)))


def _session() -> Session:
    session = make_session(COARSE, Options(verify=Verify.NEVER))
    time = 1_795_680_900
    session = record(session, Answered(COARSE[6].commit, Verdict.BAD, time, "no sound"))
    session = record(session, RangeSkipped(COARSE[2].commit, COARSE[3].commit, time))
    return record(session, Undone(time))


def test_the_log_reads_like_gits() -> None:
    """A comment that says which build, then the command; shells split it as `parse_log` does."""
    lines = format_log(_session()).splitlines()
    assert lines[0] == "# good: dailyqa 1 (457f2dfe2cbc) 47.1, 2023-11-14 23:13 UTC"
    assert lines[1].startswith("# bad: dailyqa 12 (")
    assert lines[2] == (
        f"hacktree bisect start --remote origin --good dailyqa@{COARSE[0].commit} "
        f"--bad dailyqa@{COARSE[11].commit} --votes 1 --verify never"
    )
    assert lines[4] == (
        f"hacktree bisect bad {COARSE[6].commit} --note 'no sound'  # 2026-11-26T08:15:00Z"
    )
    assert lines[7].startswith(f"hacktree bisect skip {COARSE[2].commit}..{COARSE[3].commit}  #")
    assert lines[8] == "hacktree bisect undo  # 2026-11-26T08:15:00Z"
    assert shlex.split(lines[4], comments=True)[-1] == "no sound"


def test_a_hostile_version_stays_a_comment() -> None:
    """What a farm calls a build begins no line of its own, and reaches no terminal."""
    hostile = msgspec.structs.replace(COARSE[0], version="1\nhacktree bisect undo\x1b[2J")
    session = make_session((hostile, *COARSE[1:]))
    text = format_log(session)
    assert parse_log(text).entries == ()
    assert text.replace("\n", "").isprintable()


def test_a_log_can_be_edited() -> None:
    """Lines are deleted, an answer is turned round, times and comments are left out."""
    session = _session()
    text = re.sub(r"\s*#.*", "", format_log(session))
    lines = [line for line in text.splitlines() if "undo" not in line and "skip" not in line]
    edited = "\n\n".join(lines).replace("bisect bad", "bisect good") + "\n# that was wrong\n"
    answer = Answered(COARSE[6].commit, Verdict.GOOD, 0, "no sound")
    assert _replay(edited, session).events == (answer,)


def test_an_edit_that_makes_no_sense_is_refused_by_its_line() -> None:
    """So that it can be found and mended."""
    text = format_log(_session()).replace("bisect bad", "bisect good")
    with pytest.raises(LogInvalidError, match=r"line 8 of the log: there is nothing left to test"):
        _replay(text.replace("hacktree bisect undo", "# undo"), _session())


COMMIT = "0" * 64
START = f"hacktree bisect start --good builds@{COMMIT} --bad builds@{'1' * 64}"
INVALID = {
    "nothing": ("", "no `start`"),
    "no start": (f"hacktree bisect good {COMMIT}", "line 1 of the log: the first command"),
    "another command": (f"{START}\ngit bisect good {COMMIT}", "line 2 of the log: not a command"),
    "an open quote": (f"{START}\nhacktree bisect good 'x", "line 2 of the log: No closing"),
    "a short id": (f"{START}\nhacktree bisect good abc", "line 2 of the log: 'abc' is no commit"),
    "no answer": (f"{START}\nhacktree bisect maybe {COMMIT}", "'maybe' is no answer"),
    "a range of good": (f"{START}\nhacktree bisect good {COMMIT}..{COMMIT}", "is no commit"),
    "too many words": (f"{START}\nhacktree bisect undo 2", "is no answer"),
    "two starts": (f"{START}\n{START}", "line 2 of the log"),
    "no good end": (f"hacktree bisect start --bad builds@{COMMIT}", "line 1 of the log"),
    "two branches": (START.replace("--bad builds", "--bad fastqa"), "of two branches"),
    "an unknown option": (f"{START} --quick", "is no option of start"),
    "an option without value": (f"{START} --votes", "line 1 of the log"),
    "many votes": (f"{START} --votes 1001", "votes are not"),
    "an even number of votes": (f"{START} --votes 2", "tie"),
    "a reserved term": (f"{START} --term-good skip", "can't stand for"),
    "no time": (f"{START}\nhacktree bisect undo # 2026-13-99T00:00:00Z", "line 2 of the log"),
    "a descent into two branches": (
        f"{START}\nhacktree bisect descend a@{COMMIT} b@{COMMIT}",
        "a descent into two",
    ),
    "a bad note": (f"{START}\nhacktree bisect good {COMMIT} --note '\x1b[2J'", "printable"),
    "too many events": (
        START + "\nhacktree bisect undo" * (MAX_EVENTS + 1),
        f"more than {MAX_EVENTS}",
    ),
    "too long": (START + "#" * (4 << 20), "more than 4194304 characters"),
}


@pytest.mark.parametrize(("text", "reason"), INVALID.values(), ids=INVALID.keys())
def test_a_log_that_cannot_be_read_is_refused(text: str, reason: str) -> None:
    """By a message that names the line, since people edit logs."""
    with pytest.raises(LogInvalidError, match=reason):
        parse_log(text)


def test_a_log_of_other_builds_is_refused() -> None:
    """Answers for one line say nothing about another."""
    log = parse_log(format_log(_session()))
    with pytest.raises(LogInvalidError, match="other builds"):
        replay_log(make_session(COARSE[1:]), log, {})


def test_a_descent_needs_its_builds() -> None:
    """A replay reads them from the remote; without them it stops at that line."""
    session = _descended()
    assert isinstance(session.events[-1], Descended)
    log = parse_log(format_log(session))
    assert log.descents == (Descent(log.descents[0].branch, FINE[25].commit, FINE[30].commit),)
    with pytest.raises(LogInvalidError, match="line 9 of the log: no builds of fastqa"):
        replay_log(make_session(COARSE, log.options), log, {})


@UNTIMED
@given(st.text(max_size=60) | st.text("hacktrebis godu.@-'# \n01", max_size=200))
def test_any_text_is_a_log_or_refused(text: str) -> None:
    """No other error comes out of somebody else's file."""
    for log in (text, f"{START}\n{text}", f"{START}\nhacktree bisect {text}"):
        with suppress(LogInvalidError):
            parse_log(log)


def _mutated() -> st.SearchStrategy[bytes]:
    session = _descended()
    data = encode_struct(session)
    places = st.integers(0, len(data) - 1)
    pieces = st.sampled_from([b"", b"0", b"-1", b'"', b"null", b"[]", b"{}", b"\xff", b"1e400"])
    return st.builds(
        lambda start, length, piece: data[:start] + piece + data[start + length :],
        places,
        st.integers(0, 60),
        pieces,
    ) | st.binary(max_size=50)


@UNTIMED
@given(_mutated())
def test_any_bytes_are_a_session_that_stands_or_refused(data: bytes) -> None:
    """A session comes from a stranger; one that is taken can be shown, logged and kept."""
    try:
        session = decode_session(data)
    except FormatError:
        return
    current_state(session)
    assert parse_log(format_log(session)).entries or not session.events
    assert decode_session(encode_struct(session)) == session


def test_hostile_sessions_are_refused() -> None:
    """Events that can't be, and sizes that no bisection has."""
    session = make_session(COARSE, Options(verify=Verify.NEVER))
    stray = Answered(make_line(1, "stranger")[0].commit, Verdict.GOOD)
    changed = Session(session.id, "origin", 0, session.options, session.line, (stray,))
    with pytest.raises(FormatError, match="not among"):
        decode_session(encode_struct(changed))
    with pytest.raises(FormatError, match="exceeds"):
        decode_session(b" " * (16 << 20) + encode_struct(session))
    with pytest.raises(FormatError, match="remote"):
        Session(session.id, "two\nlines", 0, session.options, session.line)


def test_what_could_not_be_read_again_is_not_written() -> None:
    """Limits that a constructor doesn't look at are looked at before bytes reach a disk."""
    session = make_session(COARSE)
    with pytest.raises(FormatError):
        encode_struct(Session("short", "origin", 0, session.options, session.line))
