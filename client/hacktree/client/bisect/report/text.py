"""A bisection's report as text for a terminal, and as Markdown for a bug tracker."""

import re
from collections.abc import Iterator
from typing import Final

from hacktree.client.bisect.core.model import Candidate
from hacktree.client.bisect.core.state import Found
from hacktree.client.bisect.report.drawing import describe_build
from hacktree.client.bisect.report.result import Report, doubts, headline, list_answers
from hacktree.client.bisect.report.verdict import (
    Difference,
    FileChange,
    Group,
    collapse,
    describe_packages,
    group_by_package,
    metadata_text,
)
from hacktree.common.objects.names import display_text
from hacktree.common.objects.packages import METADATA_KEY
from hacktree.common.repository.config import format_size

FEW: Final = 40
"""Lines of files, unless all are asked for."""

_MAX_VALUE: Final = 200
_TICKS: Final = re.compile("`+")


def render_text(report: Report, most: int | None = FEW) -> str:
    """The report for a person; at most `most` files, None for all. Foreign text comes escaped."""
    lines = [headline(report), *(f"  {doubt}" for doubt in doubts(report)), "", *_builds(report)]
    if report.difference is None:
        return "\n".join([*lines, "", report.missing])
    return "\n".join([*lines, *_metadata(report.difference), *_changes(report.difference, most)])


def render_bug_report(report: Report, most: int | None = FEW) -> str:
    """Markdown for a bug tracker; foreign text stands in code, where nothing is active."""
    old, new = report.old_word, report.new_word
    lines = [f"# {_title(report)}", "", headline(report) + "."]
    lines += [f"{doubt}." for doubt in doubts(report)]
    ends = ((role_of_last(report), report.last), (f"last {old}", report.before))
    lines.append("")
    lines += [
        f"- {role}: {_code(describe_build(build))}, commit `{build.commit}`" for role, build in ends
    ]
    lines += [
        f"- from: {_code(report.session.remote)}",
        f"- tests: {report.state.tests}",
        *(
            f"- the farm of {build.sequence}: {_code(_clip(report.hints[build.commit]))}"
            for _, build in ends
            if build.commit in report.hints
        ),
    ]
    if report.difference is not None:
        changes = [*_metadata(report.difference), *_changes(report.difference, most)]
        lines += ["", f"## What changed in the {new} build", "", *_block(changes)]
    elif report.missing:
        lines += ["", report.missing]
    said = [
        f"{one.word:<8} {one.build}" + (f"  {display_text(one.note)}" if one.note else "")
        for one in list_answers(report)
    ]
    if said:
        lines += ["", "## Tests", "", *_block(said)]
    return "\n".join(lines)


def _title(report: Report) -> str:
    """One line; the package, if it is the only one that changed."""
    build, difference = report.last, report.difference
    title = f"{build.branch} {build.sequence} is {report.new_word}"
    if not isinstance(report.state.outcome, Found):
        title = f"{build.branch}: {report.new_word} since {report.before.sequence} or later"
    packages = describe_packages(difference.packages if difference is not None else None)
    if len(packages) == 1:
        ((name, change),) = packages.items()
        title += f": {_code(f'{name} {change}')}"
    return title


def role_of_last(report: Report) -> str:
    """What the later of the two builds is."""
    found = isinstance(report.state.outcome, Found)
    return f"first {report.new_word}" if found else f"newest suspect, {report.new_word}"


def _builds(report: Report) -> Iterator[str]:
    """Both builds, and what the later one says of itself."""
    yield f"{role_of_last(report) + ':':<14} {describe_build(report.last)}"
    yield f"{'':<14} commit {report.last.commit}"
    yield from _hint(report, report.last)
    commit = report.last_commit
    if commit is not None:
        if commit.subject:
            yield f"{'':<14} {display_text(commit.subject)}"
        for name, value in commit.metadata.items():
            if name != METADATA_KEY:
                yield f"{'':<14} {_clip(name)}: {_clip(metadata_text(value))}"
    yield f"{f'last {report.old_word}:':<14} {describe_build(report.before)}"
    yield f"{'':<14} commit {report.before.commit}"
    yield from _hint(report, report.before)
    yield f"{'tests:':<14} {report.state.tests}"


def _hint(report: Report, build: Candidate) -> Iterator[str]:
    """What the farm's suites said of a build."""
    if build.commit in report.hints:
        yield f"{'':<14} the farm: {_clip(report.hints[build.commit])}"


def _metadata(difference: Difference) -> Iterator[str]:
    if not difference.metadata:
        return
    yield ""
    yield "metadata and source revisions:"
    for one in difference.metadata:
        old, new = ("none" if side is None else _clip(side) for side in (one.old, one.new))
        yield f"  {_clip(one.name)}: {old} → {new}"


def _changes(difference: Difference, most: int | None) -> Iterator[str]:
    yield ""
    if difference.packages is None:
        yield "packages: the builds don't list them"
    else:
        packages = describe_packages(difference.packages)
        left = f", and {difference.other_packages} that own no such file"
        yield f"packages: {len(packages)} changed{left if difference.other_packages else ''}"
        for name, change in packages.items():
            yield f"  {name} {change}"
    yield ""
    yield summarise_files(difference)
    shown = hidden = 0
    for group in group_by_package(difference):
        lines = [_file(file, below) for file, below in collapse(group.files)]
        some = lines if most is None else lines[: most - shown]
        if some and difference.owned:
            yield f"  {describe_group(group)}"
        yield from (f"    {line}" for line in some)
        shown += len(some)
        hidden += len(lines) - len(some)
    if hidden:
        yield f"  and {hidden} lines more"


def summarise_files(difference: Difference) -> str:
    """The counts of files that changed, in a sentence."""
    letters = [file.letter for file in difference.files]
    size = difference.new_bytes - difference.old_bytes
    text = (
        f"files: {letters.count('A')} added, {letters.count('D')} deleted, "
        f"{letters.count('M')} changed, {letters.count('m')} with other attributes; "
        f"{format_size(difference.content)} in new content, the tree "
        f"{'larger' if size >= 0 else 'smaller'} by {format_size(abs(size))}"
    )
    if difference.patterns:
        patterns = " ".join(map(display_text, difference.patterns))
        text += f"; of {patterns} only, without {difference.other_files} others"
    if not difference.owned:
        text += "; whose they are is not known"
    return text


def describe_group(group: Group) -> str:
    """What a group of files is of."""
    if not group.name:
        return "of no package:"
    return f"{_clip(group.name)} {group.change or '(the same version)'}:"


def _file(file: FileChange, below: int) -> str:
    sizes = [format_size(size) for size in (file.old_size, file.new_size) if size is not None]
    shown = " → ".join(dict.fromkeys(sizes))
    if below:
        return f"{file.letter} {file.path}/, {below} below"
    return f"{file.letter} {file.path}" + (f"  {shown}" if shown else "")


def _clip(text: str) -> str:
    shown = display_text(text)
    return shown if len(shown) <= _MAX_VALUE else shown[: _MAX_VALUE - 1] + "…"


def _code(text: str) -> str:
    """Foreign text as a code span, longer fences than ticks in it: CommonMark, "Code spans"."""
    shown = display_text(text)
    fence = "`" * (1 + max(map(len, _TICKS.findall(shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _block(lines: list[str]) -> list[str]:
    """Lines as a fenced code block."""
    longest = max((len(run) for line in lines for run in _TICKS.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    while lines and not lines[0]:
        lines = lines[1:]
    return [fence + "text", *lines, fence]
