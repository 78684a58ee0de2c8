"""Promises: a `server.toml` that says nonsense is refused; a fail stands whatever follows."""

import pytest

from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.names import parse_branch_name
from hacktree.server.promotion.logs import BoundedLog
from hacktree.server.promotion.suites import (
    SuiteInvalidError,
    SuiteMissingError,
    find_suite,
    parse_suites,
)
from hacktree.server.promotion.verdicts import (
    Finding,
    Outcome,
    Verdict,
    VerdictInvalidError,
    judge_exit,
    judge_timeout,
    standing_verdict,
)

GOOD = """
[suites.fastqa]
source = "builds"
command = ["/usr/lib/qa/fast", "--all"]
limit = "2m"

[suites.dailyqa]
source = "fastqa"
command = ["/usr/lib/qa/daily"]
limit = "4h"
every = "1d"
"""


def test_suites_are_read() -> None:
    suites = parse_suites(GOOD)
    assert list(suites) == ["fastqa", "dailyqa"]
    daily = find_suite(suites, "dailyqa")
    assert (daily.source, daily.limit, daily.every) == ("fastqa", 14_400, 86_400)
    assert find_suite(suites, "fastqa").command == ("/usr/lib/qa/fast", "--all")
    with pytest.raises(SuiteMissingError, match="dailyqa, fastqa"):
        find_suite(suites, "slowqa")
    assert parse_suites("") == {}


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("limit =", "limt =", "limt"),
        ('"2m"', '"2 fortnights"', "duration"),
        ('"2m"', '"0s"', "limit"),
        ('"2m"', '"8d"', "limit"),
        ('"2m"', "120", "limit"),
        ('["/usr/lib/qa/fast", "--all"]', "[]", "command"),
        ('["/usr/lib/qa/fast", "--all"]', '"/usr/lib/qa/fast"', "command"),
        ('source = "builds"', 'source = "fastqa"', "its own branch"),
        ('source = "builds"', 'source = "dailyqa"', "from itself"),
        ('source = "builds"', 'source = "Builds"', "branch name"),
        ('source = "builds"', 'source = "fastqa/x"', "beside"),
        ("[suites.fastqa]", "[suites.'../x']", "branch name"),
        ("[suites.fastqa]", "[suits.fastqa]", "suits"),
        ("[suites.fastqa]", "[suites.fastqa", "server.toml"),
        ('every = "1d"', 'every = "0s"', "every"),
    ],
)
def test_nonsense_is_refused(before: str, after: str, why: str) -> None:
    assert before in GOOD
    with pytest.raises(SuiteInvalidError, match=why):
        parse_suites(GOOD.replace(before, after))


def test_exit_statuses_are_judged_as_bisect_does() -> None:
    assert judge_exit(0).outcome is Outcome.PASS
    assert judge_exit(125).outcome is Outcome.INCONCLUSIVE
    for status in (1, 2, 124, 126, 127, 255):
        assert judge_exit(status) == Finding(Outcome.FAIL, f"exit status {status}")
    assert judge_exit(-11) == Finding(Outcome.FAIL, "killed by SIGSEGV")
    assert judge_timeout(120).outcome is Outcome.FAIL
    assert "120 s" in judge_timeout(120).reason


def test_a_fail_stands_whatever_follows() -> None:
    def verdict(number: int, outcome: Outcome) -> Verdict:
        finding = Finding(outcome, "why")
        return Verdict(
            number, hash_bytes(b"x"), parse_branch_name("fastqa"), finding, 1, "m", "", "", 0
        )

    passed, failed = verdict(3, Outcome.PASS), verdict(2, Outcome.FAIL)
    unsure = verdict(1, Outcome.INCONCLUSIVE)
    assert standing_verdict([unsure, failed, passed]) == failed
    assert standing_verdict([unsure, passed]) == passed
    assert standing_verdict([unsure]) == unsure
    assert standing_verdict([]) is None


def test_a_verdict_is_one_line_and_says_why() -> None:
    for reason in ("", "two\nlines", "x" * 1001, "\x1b[31mred"):
        with pytest.raises(VerdictInvalidError):
            Finding(Outcome.FAIL, reason)


@pytest.mark.parametrize("size", [1, 7, 999, 1000, 5000])
def test_a_log_keeps_its_beginning_and_its_end(size: int) -> None:
    log = BoundedLog(1000)
    written = b"".join(b"%06d\n" % number for number in range(2000))
    for at in range(0, len(written), size):
        log.add(written[at : at + size])
    kept = log.value()
    assert len(kept) <= 1000
    head, _, tail = kept.partition(b"\n[hacktree left out ")
    count, _, tail = tail.partition(b" bytes here]\n")
    assert written.startswith(head)
    assert written.endswith(tail)
    assert len(head) + int(count) + len(tail) == len(written)


def test_a_short_log_is_kept_whole() -> None:
    log = BoundedLog(1000)
    for _ in range(90):
        log.add(b"0123456789")
    assert log.value() == b"0123456789" * 90
