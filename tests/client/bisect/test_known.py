"""Promise: a farm's verdicts show where to look; one that lies changes the order of tests only."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.client.bisect.core.choice import choose
from hacktree.client.bisect.core.model import Answered, Candidate, Options, Session, Verdict, Verify
from hacktree.client.bisect.core.state import Found, ceil_log2, current_state, record
from hacktree.client.bisect.farm.known import (
    MAX_DOCUMENT,
    Known,
    NoVerdictsError,
    Outcome,
    SuiteVerdict,
    decode_known,
    hints_for,
    known_ends,
    priors_for,
    read_known,
)
from hacktree.client.connect import open_source
from hacktree.client.remote import Remote
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import MAX_BRANCH_LENGTH
from hacktree.common.repository.prune import prune
from hacktree.common.repository.retention import Policy, Rule
from hacktree.server.dashboard.judged import MAX_SHOWN_REASON, MAX_VERDICTS, Judged
from hacktree.server.dashboard.judged import SuiteVerdict as Shown
from hacktree.server.dashboard.publishing import publish_dashboard
from support.pulling import FakeTime, make_repository, patience, remote_at
from support.qa import FAIL, PASS, START, UNSURE, QaFarm
from support.servers import hacktree_serving


def line(letters: str) -> tuple[list[Candidate], Known]:
    """A line, and what fastqa said: p, f, i, or - for nothing."""
    outcomes = {"p": Outcome.PASS, "f": Outcome.FAIL, "i": Outcome.INCONCLUSIVE}
    builds = [Candidate(f"{n:064x}", "builds", n, 0) for n in range(1, len(letters) + 1)]
    known = {
        build.commit: (SuiteVerdict("fastqa", outcomes[letter]),)
        for build, letter in zip(builds, letters, strict=True)
        if letter != "-"
    }
    return builds, known


# From a farm


@pytest.fixture
def qa(tmp_path: Path) -> QaFarm:
    """Builds that fastqa passed, could not judge, failed, and did not see."""
    farm = QaFarm(make_repository(tmp_path / "farm"))
    for number, report in enumerate((PASS, UNSURE, FAIL)):
        farm.build(str(number))
        farm.judge(report)
    farm.build("3")
    publish_dashboard(farm.repository, farm.database, START)
    return farm


async def read(remote: Remote) -> Known:
    async with open_source(remote, patience(FakeTime()), 1) as source:
        return await read_known(source)


async def test_what_a_farm_says_is_read_over_http_and_from_its_directory(qa: QaFarm) -> None:
    near = await read(Remote("farm", f"file://{qa.repository.path}", "unsigned"))
    with hacktree_serving(qa.repository.path) as server:
        assert await read(remote_at(server.url)) == near
    said = [(one.suite, one.outcome, one.reason, one.time) for (one,) in near.values()]
    assert sorted(said) == [
        ("fastqa", "fail", "exit status 3", START),
        ("fastqa", "inconclusive", "exit status 125", START),
        ("fastqa", "pass", "", START),
    ]


async def test_a_farm_without_suites_says_nothing(tmp_path: Path) -> None:
    farm = make_repository(tmp_path / "farm")
    assert await read(Remote("farm", f"file://{farm.path}", "unsigned")) == {}


def test_builds_that_were_pruned_are_not_named_and_an_equal_file_stays(qa: QaFarm) -> None:
    path = qa.repository.path / "dashboard/verdicts.json"
    before = path.stat()
    publish_dashboard(qa.repository, qa.database, START + 9)
    assert path.stat().st_ino == before.st_ino
    prune(qa.repository, Policy(Rule(depth=1)), now=START, grace=0)
    publish_dashboard(qa.repository, qa.database, START + 9)
    (commit,) = json.loads(path.read_bytes())["builds"]
    assert qa.repository.has_meta(ObjectId(bytes.fromhex(commit)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format": "verdicts-2", "builds": {}}',
        b'{"format": "verdicts-1", "builds": {"x": []}}',
        b'{"format": "verdicts-1", "builds": {"%s": [{"suite": "s", "outcome": "good"}]}}'
        % (b"0" * 64),
        b'{"format": "verdicts-1", "builds": ' + b'{"a":' * 100_000,
        b'{"format": "verdicts-1", "builds": {"\xff": []}}',
    ],
)
def test_a_document_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="verdicts can't be read"):
        decode_known(data)


# What is made of it


def test_the_longest_document_of_a_farm_is_read() -> None:
    """Names and reasons as long as they may be, of letters that take the most bytes."""
    longest = Shown(
        "s" * MAX_BRANCH_LENGTH, "inconclusive", "\U0001f600" * MAX_SHOWN_REASON, 1 << 40
    )
    judged = Judged({f"{number:064x}": [longest] for number in range(MAX_VERDICTS)})
    data = msgspec.json.encode(judged)
    assert len(data) <= MAX_DOCUMENT
    assert len(decode_known(data)) == MAX_VERDICTS


def test_hints_name_suite_outcome_and_reason() -> None:
    builds, known = line("p-f")
    promoted = Candidate("a" * 64, "fastqa", 1, 0, "", builds[0].commit)
    known = {**known, "a" * 64: (SuiteVerdict("dailyqa", Outcome.FAIL, "exit status 3"),)}
    assert hints_for(known, builds) == {
        builds[0].commit: "fastqa: pass",
        builds[2].commit: "fastqa: fail",
    }
    assert hints_for(known, [promoted]) == {"a" * 64: "dailyqa: fail (exit status 3); fastqa: pass"}


@pytest.mark.parametrize(
    ("letters", "ends"),
    [
        ("pf", (1, 2)),
        ("pp--ff", (2, 5)),
        ("pfpp-ffp", (4, 6)),
        ("p-i-f", (1, 5)),
        ("fpf", (2, 3)),
        ("pfpfpp", (3, 4)),
    ],
)
def test_ends_are_where_it_broke_last(letters: str, ends: tuple[int, int]) -> None:
    builds, known = line(letters)
    low, high = known_ends(known, builds, "fastqa")
    assert (low.sequence, high.sequence) == ends


def test_ends_of_a_fix_are_where_it_passed_again() -> None:
    builds, known = line("ppff-pp")
    low, high = known_ends(known, builds, "fastqa", Verdict.GOOD)
    assert (low.sequence, high.sequence) == (4, 6)


@pytest.mark.parametrize("letters", ["", "--", "ppp", "fff", "ffpp", "ii"])
def test_verdicts_that_show_no_ends_are_said(letters: str) -> None:
    builds, known = line(letters)
    with pytest.raises(NoVerdictsError, match=r"judged \d of") as raised:
        known_ends(known, builds, "fastqa")
    assert "--good" in raised.value.hint


def test_priors_point_between_the_pass_and_the_fail() -> None:
    builds, known = line("p---p-f---f")
    weights = priors_for(known, builds)
    assert set(weights) == {builds[5].commit, builds[6].commit}
    session = Session("0" * 32, "farm", 0, Options(), tuple(builds))
    choice = choose(current_state(session), priors=weights)
    assert choice is not None
    assert choice.candidate == builds[5]


@given(st.text("pfi-", min_size=2, max_size=80), st.data())
def test_whatever_it_says_the_first_bad_build_is_found_in_as_many_tests(
    letters: str, data: st.DataObject
) -> None:
    """Made-up verdicts change the order of tests, not the result and not the worst case."""
    builds, known = line(letters)
    culprit = data.draw(st.integers(1, len(builds) - 1))
    weights = priors_for(known, builds)
    session = Session("0" * 32, "farm", 0, Options(verify=Verify.NEVER), tuple(builds))
    tests = 0
    while (choice := choose(current_state(session), priors=weights)) is not None:
        verdict = Verdict.BAD if choice.index >= culprit else Verdict.GOOD
        session = record(session, Answered(choice.candidate.commit, verdict))
        tests += 1
    outcome = current_state(session).outcome
    assert isinstance(outcome, Found)
    assert outcome.first == builds[culprit]
    assert tests <= ceil_log2(len(builds) - 1)
