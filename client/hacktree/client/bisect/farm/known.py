"""What the farm's suites said of builds: hints for a bisection, never proof. docs/bisect.md.

The document is unsigned and may be missing, old or made up. So it is shown, and only on request
taken for ends, which are tested before the result counts on them, or for priors, which change which
build is tested first and never which one is found.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.client.bisect.core.model import Candidate, CommitId, Session, Verdict
from hacktree.client.bisect.farm.lines import MAX_BUILDS, ReadLine, as_candidate
from hacktree.client.heads import HeadReader
from hacktree.client.source import NotServedError, Source
from hacktree.client.target import Target, walk_history
from hacktree.common.errors import UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.names import MAX_BRANCH_LENGTH, BranchName
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.repository import Repository

MAX_DOCUMENT: Final = 8 << 20
"""Bytes: more than 4,096 verdicts take."""

_SURE: Final = 16
"""The weight that the builds between a pass and the fail after it share, against 1 for others."""

_MAX_SUITES: Final = 64
_FILE: Final = Path("bisect/verdicts.json")
"""Relative to the repository's `state`."""


class Outcome(StrEnum):
    """What a suite says of a build."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class SuiteVerdict(msgspec.Struct, frozen=True):
    """One suite's verdict; `time` in seconds since 1970."""

    suite: Annotated[str, Meta(max_length=MAX_BRANCH_LENGTH)]
    outcome: Outcome
    reason: Annotated[str, Meta(max_length=1000)] = ""
    time: Annotated[int, Meta(ge=0, le=1 << 40)] = 0


class _Document(msgspec.Struct, frozen=True):
    format: Literal["verdicts-1"]
    builds: dict[CommitId, Annotated[tuple[SuiteVerdict, ...], Meta(max_length=64)]]


Known = Mapping[str, tuple[SuiteVerdict, ...]]
"""The verdicts on a build, by its commit."""


class NoVerdictsError(UserError):
    """The suite said nothing that shows where to look."""


async def read_known(source: Source) -> Known:
    """What the remote says of builds; nothing where it says nothing.

    Raises `FormatError` for a document that is none, and the source's errors.
    """
    try:
        return decode_known(await source.read_verdicts(MAX_DOCUMENT))
    except NotServedError:
        return {}


def decode_known(data: bytes) -> Known:
    """The verdicts in a document; raises `FormatError`."""
    try:
        return msgspec.json.decode(data, type=_Document).builds
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"the remote's verdicts can't be read: {error}") from error


def verdicts_on(known: Known, build: Candidate) -> tuple[SuiteVerdict, ...]:
    """The verdicts on a build, and on the one with the same tree that it was promoted from."""
    return known.get(build.commit, ()) + known.get(build.promoted_from, ())


def hints_for(known: Known, line: Sequence[Candidate]) -> dict[str, str]:
    """What a person may know of the builds of a line, by commit: "fastqa: fail (exit status 3)".

    Foreign text: who shows it escapes it.
    """
    hints = {}
    for build in line:
        said = "; ".join(map(_describe, verdicts_on(known, build)))
        if said:
            hints[build.commit] = said
    return hints


def known_ends(
    known: Known, line: Sequence[Candidate], suite: str, new: Verdict = Verdict.BAD
) -> tuple[Candidate, Candidate]:
    """The neighbours in a suite's verdicts where what is looked for came last; `line` oldest first.

    `new`: what builds became, BAD unless a fix is looked for. Raises `NoVerdictsError`.
    """
    turns = list(_turns(known, line, suite, new))
    if not turns:
        word = "fail after a pass" if new is Verdict.BAD else "pass after a fail"
        count = len(_judged(known, line, suite))
        raise NoVerdictsError(
            f"suite {suite!r} judged {count} of {len(line)} builds, none with a {word}",
            hint="Name both ends yourself: --good BUILD --bad BUILD.",
        )
    low, high = turns[-1]
    return line[low], line[high]


async def read_judged_line(
    repository: Repository,
    source: Source,
    heads: HeadReader,
    branch: BranchName,
    known: Known,
    suite: str,
    new: Verdict,
) -> ReadLine:
    """The builds of a branch between `known_ends`, both included.

    Raises `NoVerdictsError`, `PeerError`.
    """
    targets: list[Target] = []
    became = False
    head = await heads.read_head(branch)
    async for target in walk_history(repository, source, head, branch):
        targets.append(target)
        said = _verdict(known, as_candidate(target), suite)
        became = became or said is new
        if (became and said not in (None, new)) or len(targets) >= MAX_BUILDS:
            break
    builds = [as_candidate(target) for target in reversed(targets)]
    low, high = known_ends(known, builds, suite, new)
    between = range(low.sequence, high.sequence + 1)
    return ReadLine.of([target for target in targets if target.commit.sequence in between])


def priors_for(
    known: Known, line: Sequence[Candidate], new: Verdict = Verdict.BAD
) -> dict[str, int]:
    """Weights of builds to be the first new one, by commit, for `choose`: 1 for those not named.

    Every suite counts: of the builds after one that it found old, up to the next that it found
    new, one is likelier to be what is looked for.
    """
    weights: dict[str, int] = {}
    suites = {one.suite for build in line for one in verdicts_on(known, build)}
    for suite in sorted(suites)[:_MAX_SUITES]:
        for low, high in _turns(known, line, suite, new):
            for build in line[low + 1 : high + 1]:
                share = max(_SURE // (high - low), 1)
                weights[build.commit] = weights.get(build.commit, 1) + share
    return weights


def _turns(
    known: Known, line: Sequence[Candidate], suite: str, new: Verdict
) -> Iterator[tuple[int, int]]:
    """Places of builds, next to one another among those judged, of which the later became new."""
    for (low, before), (high, after) in pairwise(_judged(known, line, suite)):
        if after is new and before is not new:
            yield low, high


def _judged(known: Known, line: Sequence[Candidate], suite: str) -> list[tuple[int, Verdict]]:
    """Place and verdict of the builds that a suite judged; a fail counts before a pass."""
    said = ((index, _verdict(known, build, suite)) for index, build in enumerate(line))
    return [(index, verdict) for index, verdict in said if verdict is not None]


def _verdict(known: Known, build: Candidate, suite: str) -> Verdict | None:
    outcomes = {one.outcome for one in verdicts_on(known, build) if one.suite == suite}
    if Outcome.FAIL in outcomes:
        return Verdict.BAD
    return Verdict.GOOD if Outcome.PASS in outcomes else None


def keep_known(repository: Repository, known: Known) -> None:
    """Keep what the farm said while the bisection lasts, in place of what was kept."""
    write_durably(repository.state / _FILE, msgspec.json.encode(_Document("verdicts-1", {**known})))


def kept_hints(repository: Repository, session: Session) -> dict[str, str]:
    """`hints_for` the builds of every line, from what is kept; none if that is damaged or gone."""
    try:
        with (repository.state / _FILE).open("rb") as stream:
            known = decode_known(stream.read(MAX_DOCUMENT))
    except (FileNotFoundError, FormatError):
        return {}
    hints: dict[str, str] = {}
    for line in session.lines:
        hints |= hints_for(known, line)
    return hints


def forget_known(repository: Repository) -> None:
    """Delete what is kept."""
    (repository.state / _FILE).unlink(missing_ok=True)


def _describe(verdict: SuiteVerdict) -> str:
    reason = f" ({verdict.reason})" if verdict.reason else ""
    return f"{verdict.suite}: {verdict.outcome}{reason}"
