"""What a bisection is made of: plain values that validate themselves. docs/bisect.md.

A session is a line of builds, of which the oldest is known to be one way and the newest the other,
and the events since. Everything else follows from them (`state`). A session may come from somebody
else's file, so every value here is bounded. Pure.
"""

import re
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.errors import UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.names import parse_branch_name

MAX_LINE: Final = 10_000
"""Builds in one line."""

MAX_EVENTS: Final = 4096
MAX_VOTES: Final = 99
MAX_WEIGHT: Final = 1_000_000
MAX_TEXT: Final = 1000

CommitId = Annotated[str, Meta(pattern="^[0-9a-f]{64}$(?!\\n)")]
MAX_TIME: Final = 253_402_300_799
"""The last second of the year 9999."""

CommitTime = Annotated[int, Meta(ge=0, le=1 << 40)]
Time = Annotated[int, Meta(ge=0, le=MAX_TIME)]
"""Both in seconds since 1970 UTC."""

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Constant = Annotated[dict[Text, Text], Meta(max_length=10_000)]
"""What a machine has: up to 1,000 extensions, and its layers and scripts."""

_TERM = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_TAKEN = re.compile(
    "start|skip|answer|next|undo|run|prompt|log|replay|status|visualize|reset|report|export|import"
    "|packages|help|enter|quit|."
)
"""Subcommands, and what `prompt` understands: some words, and letters."""


class TermInvalidError(UserError):
    """A word can't stand for good or bad."""


class NoteInvalidError(UserError):
    """A note is not one line of printable characters."""


class Verdict(StrEnum):
    """What a test says of a build; SKIP: it can't be tested."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}


class Verify(StrEnum):
    """When the ends of the line are tested, which were only told: before all else; at the end, if
    the answer rests on one; never."""

    FIRST = "first"
    LAST = "last"
    NEVER = "never"


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How everything here is encoded: JSON objects without surprises."""


class Candidate(_Struct, frozen=True):
    """A build of the line. `promoted_from`: the commit of the finer branch with the same tree,
    empty for none. `sequence`, `time`, `version` as in its commit."""

    commit: CommitId
    branch: Annotated[str, Meta(max_length=200)]
    sequence: Annotated[int, Meta(ge=1, le=1 << 40)]
    time: CommitTime
    version: Text = ""
    promoted_from: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$(?!\\n)")] = ""

    def __str__(self) -> str:
        return f"{self.branch} {self.sequence} ({self.commit[:12]})"


Line = Annotated[tuple[Candidate, ...], Meta(min_length=2, max_length=MAX_LINE)]
"""Builds of one branch, oldest first; the first and the last are known to differ."""


class Terms(_Struct, frozen=True):
    """The words that people say and read for GOOD and BAD; raises `TermInvalidError`."""

    good: str = "good"
    bad: str = "bad"

    def __post_init__(self) -> None:
        for word in (self.good, self.bad):
            if not _TERM.fullmatch(word) or _TAKEN.fullmatch(word):
                raise TermInvalidError(
                    f"{word[:40]!r} can't stand for good or bad",
                    hint="A lower-case word of 2 to 32 letters that is no subcommand of bisect and "
                    "no word of its prompt.",
                )
        if self.good == self.bad or self.good == "bad" or self.bad == "good":
            raise TermInvalidError(
                f"{self.good!r} for good and {self.bad!r} for bad would be mixed up",
                hint="Use two words, such as --term-good fast --term-bad slow.",
            )

    def word(self, verdict: Verdict) -> str:
        """The word for a verdict."""
        return {Verdict.GOOD: self.good, Verdict.BAD: self.bad}.get(verdict, verdict.value)

    def parse(self, word: str) -> Verdict | None:
        """The verdict that a word stands for; None for no verdict. The plain words always do."""
        if word == self.good:
            return Verdict.GOOD
        if word == self.bad:
            return Verdict.BAD
        return _VERDICTS.get(word)


class Options(_Struct, frozen=True):
    """What was asked for at the start.

    `find_fix`: the line begins bad and ends good. `votes`: tests of a build of which the majority
    counts, odd. `deploy`: candidates become the live root, else they are only checked out.
    `constant`: what every candidate is combined with (scripts, extensions, layers), as digests;
    `mixed`: some were answered for with others; `imported`: some answers came in a file, which
    doesn't tell what they were given with.
    """

    terms: Terms = Terms()
    find_fix: bool = False
    votes: Annotated[int, Meta(ge=1, le=MAX_VOTES)] = 1
    verify: Verify = Verify.LAST
    strict_midpoint: bool = False
    deploy: bool = True
    constant: Constant = msgspec.field(default_factory=dict)
    mixed: bool = False
    imported: bool = False

    def __post_init__(self) -> None:
        if self.votes % 2 == 0:
            raise UserError(
                f"{self.votes} votes can end in a tie", hint="Give an odd number: --votes 3."
            )

    @property
    def old(self) -> Verdict:
        """What the oldest build is."""
        return Verdict.BAD if self.find_fix else Verdict.GOOD

    @property
    def new(self) -> Verdict:
        """What the newest build is, and whose beginning is looked for."""
        return Verdict.GOOD if self.find_fix else Verdict.BAD

    @property
    def majority(self) -> int:
        """Votes that decide."""
        return self.votes // 2 + 1


class Answered(_Struct, frozen=True, tag_field="event", tag="answered"):
    """Somebody or some command tested a build. `note` is one line, theirs."""

    commit: CommitId
    verdict: Verdict
    time: Time = 0
    note: Text = ""

    def __post_init__(self) -> None:
        _check_note(self.note)


class RangeSkipped(_Struct, frozen=True, tag_field="event", tag="range-skipped"):
    """No build from `first` to `last`, both included, can be tested."""

    first: CommitId
    last: CommitId
    time: Time = 0
    note: Text = ""

    def __post_init__(self) -> None:
        _check_note(self.note)


class Undone(_Struct, frozen=True, tag_field="event", tag="undone"):
    """The last answer that stands, or range skipped, is taken back, with what followed from it."""

    time: Time = 0


class Descended(_Struct, frozen=True, tag_field="event", tag="descended"):
    """The search goes on in a finer branch, between what the two neighbours were promoted from."""

    line: Line
    time: Time = 0

    def __post_init__(self) -> None:
        check_line(self.line)


Event = Answered | RangeSkipped | Undone | Descended


class Session(_Struct, frozen=True):
    """A bisection, without anything of the machine that it runs on: what is exported.

    `id`: random hexadecimal digits. `remote`: where the builds come from. `priors`: how likely a
    commit is the one looked for, against 1 for those not named.
    """

    id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$(?!\\n)")]
    remote: Text
    created: Time
    options: Options
    line: Line
    events: Annotated[tuple[Event, ...], Meta(max_length=MAX_EVENTS)] = ()
    priors: Annotated[
        dict[CommitId, Annotated[int, Meta(ge=1, le=MAX_WEIGHT)]], Meta(max_length=MAX_LINE)
    ] = msgspec.field(default_factory=dict)
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        if not self.remote.isprintable():
            raise FormatError("the name of a remote is one line of printable characters")
        check_line(self.line)

    @property
    def lines(self) -> tuple[tuple[Candidate, ...], ...]:
        """Every line that was ever searched, each once; also those that an undo took back."""
        finer = (event.line for event in self.events if isinstance(event, Descended))
        return tuple(dict.fromkeys((self.line, *finer)))


def check_line(line: tuple[Candidate, ...]) -> None:
    """Raise `FormatError` unless these are two or more builds of one branch, oldest first."""
    if not 2 <= len(line) <= MAX_LINE:
        raise FormatError(f"a bisection is over 2 to {MAX_LINE} builds, not {len(line)}")
    try:
        parse_branch_name(line[0].branch)
    except UserError as error:
        raise FormatError(error.message) from error
    for older, newer in pairwise(line):
        if newer.branch != older.branch:
            raise FormatError(f"{newer} stands in a line of branch {older.branch}")
        if newer.sequence <= older.sequence:
            raise FormatError(f"{newer} does not come after {older}")
    if len({build.commit for build in line}) != len(line):
        raise FormatError("a build stands twice in a line")


def _check_note(note: str) -> None:
    if not note.isprintable() or len(note) > MAX_TEXT:
        raise NoteInvalidError(f"a note is one line of up to {MAX_TEXT} printable characters")
