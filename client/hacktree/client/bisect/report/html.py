"""A bisection's report as a page of HTML: no script, nothing loaded, whatever the names in it are.

Jinja escapes every value, and what would not print is shown as its escape. The drawing is SVG in
the page; what it shows is in the tables too, and shapes tell what colours tell.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

import jinja2
import msgspec
from markupsafe import Markup

from hacktree.client.bisect.core.model import Verdict
from hacktree.client.bisect.core.state import EndpointWrong, Found, Inconclusive, State
from hacktree.client.bisect.report.drawing import Row, list_rows
from hacktree.client.bisect.report.history import Known, Stretch, levels, stretches
from hacktree.client.bisect.report.result import Report, doubts, headline, list_answers
from hacktree.client.bisect.report.text import describe_group, role_of_last, summarise_files
from hacktree.client.bisect.report.verdict import (
    Difference,
    FileChange,
    collapse,
    describe_packages,
    group_by_package,
    metadata_text,
)
from hacktree.common.objects.moments import display_time
from hacktree.common.objects.names import display_text
from hacktree.common.objects.packages import METADATA_KEY
from hacktree.common.repository.config import format_size

MOST_FILES: Final = 2000
"""Files in the page; JSON has all."""

_PLACE: Final = Path(__file__).parent
_LEFT: Final = 10.0
_WIDTH: Final = 980.0
"""Where the drawing begins, and how wide it is, of 1000."""

_MAX_TICKS: Final = 160
"""Builds of a line up to which each has a tick."""


class _Shape(msgspec.Struct, frozen=True):
    """A stretch of builds from `x` to `end`; `mark` if its middle has one. `kind`: of verdicts."""

    kind: str
    mark: str
    x: float
    end: float
    title: str

    @property
    def middle(self) -> float:
        return (self.x + self.end) / 2

    @property
    def width(self) -> float:
        return self.end - self.x


class _Drawing(msgspec.Struct, frozen=True):
    """A line of builds, drawn and listed."""

    level: State
    summary: str
    shapes: tuple[_Shape, ...]
    ticks: tuple[float, ...]
    border: float
    rows: tuple[Row, ...]


def render_html(report: Report) -> bytes:
    """The page, in UTF-8; without the sections about changes where `difference` is None."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PLACE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(time=display_time, size=format_size, kind=_kind)
    style = environment.get_template("page.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    difference = report.difference
    groups = [] if difference is None else _groups(difference)
    page = environment.get_template("page.html").render(
        report=report,
        style_digest=digest,
        headline=headline(report),
        outcome=_outcome(report.state),
        doubts=doubts(report),
        role=role_of_last(report),
        facts=_facts(report),
        drawings=[_draw(level, report) for level in levels(report.state)],
        answers=list_answers(report),
        difference=difference,
        packages=describe_packages(None if difference is None else difference.packages),
        groups=groups,
        shown=sum(1 + below for _, files in groups for _, below in files),
        summary="" if difference is None else summarise_files(difference),
    )
    return page.encode()


def _printable(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return display_text(value)


def _outcome(state: State) -> tuple[str, str]:
    """How the outcome looks, and what it is called."""
    match state.outcome:
        case Found():
            return "good", "found"
        case Inconclusive():
            return "unsure", "inconclusive"
        case EndpointWrong():
            return "unsure", "an end was wrong"
        case _:
            return "quiet", "searching"


def _facts(report: Report) -> list[tuple[str, str]]:
    """What the later build says of itself."""
    commit = report.last_commit
    if commit is None:
        return []
    named = [("subject", commit.subject), ("architecture", commit.architecture)]
    named += [
        (name, metadata_text(value))
        for name, value in commit.metadata.items()
        if name != METADATA_KEY
    ]
    return [(name, value) for name, value in named if value]


def _groups(difference: Difference) -> list[tuple[str, list[tuple[FileChange, int]]]]:
    """The first files, by package."""
    found, left = [], MOST_FILES
    for group in group_by_package(difference):
        files = collapse(group.files)[:left]
        left -= len(files)
        if files:
            found.append((describe_group(group) if difference.owned else "", files))
    return found


def _draw(level: State, report: Report) -> _Drawing:
    count = len(level.line)
    cell = _WIDTH / count
    old, new = report.old_word, report.new_word
    summary = (
        f"{count} builds of {level.line[0].branch}: {level.low + 1} {old}, "
        f"{count - level.high} {new}, {level.high - level.low - 1} between them"
    )
    return _Drawing(
        level,
        summary,
        tuple(_shape(level, one, cell) for one in stretches(level)),
        tuple(_LEFT + cell * index for index in range(1, count)) if count <= _MAX_TICKS else (),
        min(max(_LEFT + cell * level.high, 120.0), 880.0),
        tuple(list_rows(level, report.hints)),
    )


def _shape(level: State, one: Stretch, cell: float) -> _Shape:
    first, last = level.line[one.first], level.line[one.last]
    word = "suspected" if one.verdict is None else level.options.terms.word(one.verdict)
    builds = str(first) if one.count == 1 else f"{first.sequence} to {last.sequence}"
    mark = one.known.value if one.known in (Known.TOLD, Known.TESTED, Known.SKIPPED) else ""
    return _Shape(
        _kind(one.verdict),
        mark,
        round(_LEFT + cell * one.first, 2),
        round(_LEFT + cell * (one.last + 1), 2),
        f"{builds}: {word}, {one.known.value}",
    )


def _kind(verdict: Verdict | None) -> str:
    return "open" if verdict is None else verdict.value
