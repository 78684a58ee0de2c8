"""What a bisection found and what changed, as people and programs are told it."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.client.bisect.core.model import (
    Descended,
    Options,
    Session,
    Verdict,
    Verify,
)
from hacktree.client.bisect.core.state import current_state, record
from hacktree.client.bisect.report.drawing import draw
from hacktree.client.bisect.report.history import Known, levels, stretches
from hacktree.client.bisect.report.result import (
    Report,
    as_document,
    doubts,
    headline,
)
from hacktree.client.bisect.report.text import render_bug_report, render_text
from hacktree.client.bisect.report.verdict import (
    Difference,
    Narrowing,
    collapse,
    compare_commits,
    group_by_package,
)
from hacktree.client.layers.placing import compile_patterns
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from support.bisecting import make_line, make_session
from support.bisections import (
    ATTACK,
    FAST_AND_SLOW,
    answered,
    candidates,
    make_history,
    skipped,
)
from support.pulling import make_repository
from support.trees import Spec, make_commit

GOOD, BAD, SKIP = Verdict.GOOD, Verdict.BAD, Verdict.SKIP
OWNERS = {
    b"usr/lib/libGL.so": ("mesa",),
    b"usr/bin/same": ("coreutils",),
    b"etc/build": ("glibc",),
}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repo")


def compare(
    repository: Repository, commits: list[ObjectId], old: int, new: int, *patterns: str
) -> tuple[Commit, Commit, Difference]:
    before, after = (repository.load_commit(commits[index]) for index in (old, new))
    narrowing = Narrowing(patterns, compile_patterns(patterns)) if patterns else None
    difference = compare_commits(
        repository.load_tree, before, after, lambda paths: (OWNERS, OWNERS), narrowing
    )
    return before, after, difference


def found_report(repository: Repository, *patterns: str) -> Report:
    """Eight builds, of which the fifth is the first bad one; found by tests."""
    commits = make_history(repository, 8, 5)
    session = answered(make_session(candidates(repository, commits)), (3, GOOD), (5, BAD), (4, BAD))
    state = current_state(session)
    old, new, difference = compare(repository, commits, 3, 4, *patterns)
    return Report(session, state, old, new, difference)


def test_the_difference_names_files_packages_revisions_and_sizes(repository: Repository) -> None:
    """All that the first bad build changed, each file with its package, is in it."""
    commits = make_history(repository, 2, 2)
    difference = compare(repository, commits, 0, 1)[2]
    assert [(file.letter, file.packages) for file in difference.files] == [
        ("M", ("glibc",)),
        ("A", ()),
        ("M", ("mesa",)),
    ]
    assert difference.files[2].path == "/usr/lib/libGL.so"
    assert (difference.files[2].old_size, difference.files[2].new_size) == (4000, 4000)
    assert difference.content == 4000 + len("2") + len("new")
    assert difference.new_bytes - difference.old_bytes == len("new")
    assert difference.packages is not None
    assert [(a.version, b.version) for a, b in difference.packages.changed] == [("24.1", "24.2")]
    changed = {one.name: (one.old, one.new) for one in difference.metadata}
    assert changed["source-revision"] == (f"{1:040x}", f"{2:040x}")
    groups = group_by_package(difference)
    assert [(group.name, group.change) for group in groups] == [
        ("mesa", "24.1 → 24.2"),
        ("glibc", ""),
        ("", ""),
    ]


def test_what_came_or_went_as_a_whole_is_one_line(repository: Repository) -> None:
    """A directory that only one build has stands for what it holds; its neighbours don't."""
    first: dict[str | bytes, Spec] = {"lib/6.1/a": b"", "lib/6.1/b/c": b"", "lib/same": b""}
    second: dict[str | bytes, Spec] = {"lib/6.2/a": b"", "lib/6.2/b/c": b"", "lib/6.2-x": b""}
    commits = [make_commit(repository, tree) for tree in (first, second)]
    difference = compare(repository, commits, 0, 1)[2]
    assert len(difference.files) == 10
    assert [(one.letter, one.path, below) for one, below in collapse(difference.files)] == [
        ("D", "/lib/6.1", 3),
        ("A", "/lib/6.2", 3),
        ("A", "/lib/6.2-x", 0),
        ("D", "/lib/same", 0),
    ]


def test_paths_narrow_files_and_their_packages(repository: Repository) -> None:
    """Patterns are those of layers; what is left out is counted, not forgotten."""
    commits = make_history(repository, 2, 2)
    difference = compare(repository, commits, 0, 1, "usr/lib/**")[2]
    assert [file.path for file in difference.files] == ["/usr/lib/libGL.so"]
    assert (difference.other_files, difference.other_packages) == (2, 0)
    difference = compare(repository, commits, 0, 1, "/etc")[2]
    assert [file.path for file in difference.files] == ["/etc/build"]
    assert difference.packages is not None
    assert difference.packages.changed == ()
    assert difference.other_packages == 1
    before, after = (repository.load_commit(one) for one in commits)
    unowned = compare_commits(
        repository.load_tree,
        before,
        after,
        lambda paths: None,
        Narrowing(("etc",), compile_patterns(["etc"])),
    )
    assert unowned.packages is not None
    assert len(unowned.packages.changed) == 1


def test_text_bug_report_and_json_tell_the_same(repository: Repository) -> None:
    """Each names both builds, the package, the revision and the tests."""
    report = found_report(repository)
    text, bug = render_text(report), render_bug_report(report)
    document = json.loads(json.dumps(as_document(report)))
    for shown in (text, bug):
        assert "is the first bad build" in shown
        assert report.last.commit in shown
        assert report.before.commit in shown
        assert "mesa 24.1 → 24.2" in shown
        assert f"{5:040x}" in shown
        assert "M /usr/lib/libGL.so" in shown
    assert "said by a test" in bug
    assert bug.splitlines()[0] == "# fastqa 5 is bad: `mesa 24.1 → 24.2`"
    assert document["outcome"] == "found"
    assert document["first-bad"]["commit"] == report.last.commit
    assert document["last-good"]["commit"] == report.before.commit
    assert [one["verdict"] for one in document["answers"]] == ["good", "bad", "bad"]
    assert [one["path"] for one in document["difference"]["files"]][2] == "/usr/lib/libGL.so"
    assert document["difference"]["packages"]["changed"] == [["mesa", "x86_64", "24.1", "24.2"]]


def test_foreign_text_is_inert_in_text_and_markdown(repository: Repository) -> None:
    """Nothing steers the terminal; in Markdown it stands in code, whatever ticks it has."""
    report = found_report(repository)
    assert "owned" in render_text(report)
    assert render_text(report).replace("\n", "").isprintable()
    bug = render_bug_report(report)
    assert bug.replace("\n", "").isprintable()
    outside, fence = [], ""
    for line in bug.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.removesuffix("text")
        else:
            outside.append(line)
    assert fence == ""
    spans = [line for line in outside if "</title" in line]
    assert spans
    for line in spans:
        # A span of two ticks holds the single one of the attack.
        assert line.count("``") == 2
        assert "</title" not in line.partition("``")[0] + line.rpartition("``")[2]


def test_a_long_list_is_cut_and_says_so(repository: Repository) -> None:
    """A terminal gets the first files, packages that changed first, and how many are left out."""
    report = found_report(repository)
    text = render_text(report, most=1)
    assert "M /usr/lib/libGL.so" in text
    assert "/etc/build" not in text
    assert "and 2 lines more" in text
    assert "/etc/build" in render_text(report, most=None)


def test_a_result_without_the_builds_says_what_is_missing() -> None:
    """An imported session has a result before anything of it is here."""
    session = answered(make_session(make_line(3, "fastqa")), (1, BAD))
    report = Report(session, current_state(session), missing="the builds are not here")
    assert "the builds are not here" in render_text(report)
    assert "the builds are not here" in render_bug_report(report)
    document = as_document(report)
    assert (document["difference"], document["missing"]) == (None, "the builds are not here")


def report_of(session: Session) -> Report:
    return Report(session, current_state(session))


def test_headlines() -> None:
    """Each outcome in words, with the session's own terms, and what nobody tested."""
    never = Options(verify=Verify.NEVER)
    line = make_line(4, "fastqa")
    found = answered(make_session(line, never), (1, GOOD), (2, BAD))
    assert headline(report_of(found)) == (
        f"{line[2]} is the first bad build, {line[1]} the last good one"
    )
    assert doubts(report_of(found)) == ()
    told = answered(make_session(line, never), (1, BAD))
    assert doubts(report_of(told)) == (f"{line[0]} was only said to be good, not tested",)
    open_ = answered(make_session(make_line(64, "fastqa")), (31, GOOD))
    assert headline(report_of(open_)) == (
        "not found yet: 32 builds are suspected, about 5 tests left"
    )
    unsure = skipped(make_session(line, never), 1, 2)
    assert "one of 3 builds is the first bad one" in headline(report_of(unsure))
    wrong = answered(make_session(line, Options(verify=Verify.FIRST)), (0, BAD))
    assert "was said to be good and is bad" in headline(report_of(wrong))
    fix = Options(find_fix=True, verify=Verify.NEVER, terms=FAST_AND_SLOW)
    fixed = answered(make_session(line, fix), (1, BAD), (2, GOOD))
    assert headline(report_of(fixed)) == (
        f"{line[2]} is the first fast build, {line[1]} the last slow one"
    )
    assert as_document(report_of(fixed))["first-good"] is not None


def test_the_drawing_shows_what_is_known() -> None:
    """A letter for each build, then the builds that somebody said something of."""
    session = answered(make_session(make_line(16, "fastqa")), (7, GOOD), (11, BAD))
    session = skipped(session, 9, 9)
    lines = draw(
        current_state(session), 72, {make_line(16, "fastqa")[8].commit: "tested: pass"}
    ).splitlines()
    assert lines[0] == "fastqa: 16 builds, 1 to 16"
    assert lines[1] == "  o------o?s?N===N"
    assert any(line.startswith("  good     fastqa 8 ") and "[tested]" in line for line in lines)
    assert any("[told]" in line for line in lines)
    assert any("[the farm: tested: pass]" in line for line in lines)
    assert "  good     6 builds, 2 to 7" in lines
    assert lines[-1] == "o good, N bad, - and = follow from these, s skipped, ? suspected"


def test_what_the_farm_said_stands_at_its_builds() -> None:
    """Also at builds that are otherwise only counted; as text it is as foreign as any."""
    line = make_line(9, "fastqa")
    session = answered(make_session(line), (6, GOOD), (7, BAD))
    hints = {line[3].commit: f"tested: pass {ATTACK}", line[7].commit: f"tested: fail {ATTACK}"}
    state = current_state(session)
    report = Report(session, state, hints=hints)
    drawn = draw(state, 72, hints)
    assert [row for row in drawn.splitlines() if " builds, " in row][1:] == [
        "  good     2 builds, 2 to 3",
        "  good     2 builds, 5 to 6",
    ]
    assert "the farm: tested: pass" in drawn
    assert "the farm: tested: fail" in render_text(report)
    assert "- the farm of 8: ``tested: fail" in render_bug_report(report)
    for shown in (drawn, render_text(report), render_bug_report(report)):
        assert shown.replace("\n", "").isprintable()


def test_a_long_line_is_drawn_in_the_width() -> None:
    """10,000 builds fit; what was tested keeps its letter."""
    session = answered(make_session(make_line(10_000, "fastqa")), (4999, GOOD), (7499, BAD))
    bar = draw(current_state(session), 72, {}).splitlines()[1]
    assert len(bar) == 72
    assert bar.strip() == "o" + "-" * 33 + "o" + "?" * 17 + "N" + "=" * 16 + "N"


def test_every_line_of_a_descent_is_drawn() -> None:
    """From coarse to fine: the coarse line stays, as it ended."""
    fine = make_line(9, "fastqa")
    line = make_line(2, "dailyqa", {0: fine[0].commit, 1: fine[-1].commit})
    session = make_session(line, Options(verify=Verify.NEVER))
    session = record(session, Descended(fine))
    state = current_state(session)
    assert [level.line[0].branch for level in levels(state)] == ["dailyqa", "fastqa"]
    drawn = draw(state, 72, {})
    assert drawn.index("dailyqa: 2 builds") < drawn.index("fastqa: 9 builds")


@given(st.data())
@settings(max_examples=50)
def test_stretches_cover_the_line_and_say_what_the_state_says(data: st.DataObject) -> None:
    """Whatever was answered, each build is in one stretch, with the verdict that is known of it."""
    votes = data.draw(st.sampled_from([1, 3]))
    session = make_session(make_line(data.draw(st.integers(2, 12)), "fastqa"), Options(votes=votes))
    for _ in range(data.draw(st.integers(0, 8))):
        state = current_state(session)
        if state.outcome is not None:
            break
        allowed = [*state.testable, *state.due_ends]
        index = data.draw(st.sampled_from(allowed))
        verdicts = [GOOD, BAD, SKIP]
        session = answered(session, (index, data.draw(st.sampled_from(verdicts))))
    state = current_state(session)
    found = stretches(state)
    assert [one.first for one in found] == [0, *(one.last + 1 for one in found[:-1])]
    assert found[-1].last == len(state.line) - 1
    for one in found:
        for index in range(one.first, one.last + 1):
            if state.wrong is None or state.wrong.candidate != state.line[index]:
                assert one.verdict == state.known(index)
            assert (one.verdict is None) == (one.known is Known.OPEN)
    render_text(report_of(session))
    render_bug_report(report_of(session))
    json.dumps(as_document(report_of(session)))
    assert ATTACK not in draw(state, 72, {})
