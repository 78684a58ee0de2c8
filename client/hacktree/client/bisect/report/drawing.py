"""A bisection drawn with letters: each line of builds as a bar, and what is known of its builds."""

from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise
from typing import Final

import msgspec

from hacktree.client.bisect.core.model import Candidate, Verdict
from hacktree.client.bisect.core.state import State
from hacktree.client.bisect.report.history import Known, Stretch, levels, stretches
from hacktree.common.objects.moments import display_time
from hacktree.common.objects.names import display_text

MIN_WIDTH: Final = 20
_SHOWN_VERSION: Final = 40
_SEPARATE: Final = 12
"""Suspects, or skipped builds, that are listed one by one."""

_MARKS: Final = {Known.TOLD: "told", Known.TESTED: "tested"}


def draw(state: State, width: int, hints: Mapping[str, str]) -> str:
    """Every line that was searched, the coarsest first, in at most about `width` columns a bar.

    `hints`: what the farm's tests said of builds, by commit. Foreign text comes escaped.
    """
    parts = [_draw_level(level, max(width, MIN_WIDTH), hints) for level in levels(state)]
    return "\n\n".join([*parts, _legend(state)])


def describe_build(build: Candidate) -> str:
    """A build in a line: branch, number, commit, version, date; escaped."""
    version = display_text(build.version)
    if len(version) > _SHOWN_VERSION:
        version = version[: _SHOWN_VERSION - 1] + "…"
    return ", ".join(filter(None, (str(build), version, display_time(build.time))))


def _draw_level(level: State, width: int, hints: Mapping[str, str]) -> str:
    count = len(level.line)
    rows = [
        f"{level.line[0].branch}: {count} builds, {level.line[0].sequence} to "
        f"{level.line[-1].sequence}",
        f"  {_bar(level, width - 2)}",
        *_rows(level, hints),
    ]
    return "\n".join(rows)


def _bar(level: State, width: int) -> str:
    """A letter for each build; of several in one column the one that says most."""
    letters = [""] * len(level.line)
    for one in stretches(level):
        letters[one.first : one.last + 1] = [_letter(level, one)] * one.count
    width = min(width, len(letters))
    bounds = [len(letters) * column // width for column in range(width + 1)]
    return "".join(max(letters[start:stop], key=_ORDER.index) for start, stop in pairwise(bounds))


_ORDER: Final = "-=s?oN"
"""From what says least to what says most: of a column with both ends, that of the new one."""


def _letter(level: State, one: Stretch) -> str:
    if one.verdict is None:
        return "?"
    if one.verdict is Verdict.SKIP:
        return "s"
    is_new = one.verdict is level.options.new
    if one.known is Known.FOLLOWS:
        return "=" if is_new else "-"
    return "N" if is_new else "o"


class Row(msgspec.Struct, frozen=True):
    """A build of a line, or `count` of them of which the same is known, from `first` to `last`.

    `word` is the verdict's, "?" for none; `remarks` are escaped.
    """

    verdict: Verdict | None
    word: str
    first: Candidate
    last: Candidate
    count: int
    remarks: tuple[str, ...]


def list_rows(level: State, hints: Mapping[str, str]) -> Iterator[Row]:
    """The line as a list: builds that were tested, told or have a remark alone, others together."""
    for one in stretches(level):
        word = "?" if one.verdict is None else level.options.terms.word(one.verdict)
        builds = level.line[one.first : one.last + 1]
        together = len(builds) > (1 if one.known is Known.FOLLOWS else _SEPARATE)
        for hinted, group in groupby(builds, lambda build: build.commit in hints):
            some = tuple(group)
            if together and not hinted and len(some) > 1:
                yield Row(one.verdict, word, some[0], some[-1], len(some), ())
                continue
            for build in some:
                yield Row(one.verdict, word, build, build, 1, _remarks(level, one, build, hints))


def _rows(level: State, hints: Mapping[str, str]) -> Iterator[str]:
    for row in list_rows(level, hints):
        if row.count > 1:
            yield (
                f"  {row.word:<8} {row.count} builds, {row.first.sequence} to {row.last.sequence}"
            )
        else:
            remarks = f"  [{'; '.join(row.remarks)}]" if row.remarks else ""
            yield f"  {row.word:<8} {describe_build(row.first)}{remarks}"


def _remarks(
    level: State, one: Stretch, build: Candidate, hints: Mapping[str, str]
) -> tuple[str, ...]:
    remarks = [_MARKS[one.known]] if one.known in _MARKS else []
    if one.votes is not None and level.options.votes > 1:
        terms, options = level.options.terms, level.options
        remarks.append(
            f"{one.votes.old} for {terms.word(options.old)}, "
            f"{one.votes.new} for {terms.word(options.new)}"
        )
    if build.commit in hints:
        remarks.append(f"the farm: {display_text(hints[build.commit])}")
    return tuple(remarks)


def _legend(state: State) -> str:
    terms, options = state.options.terms, state.options
    old, new = terms.word(options.old), terms.word(options.new)
    return f"o {old}, N {new}, - and = follow from these, s skipped, ? suspected"
