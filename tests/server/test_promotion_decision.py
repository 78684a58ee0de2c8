"""Promises: a branch never moves back, nothing moves that may not, and why is always known."""

from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.server.promotion.decision import (
    Build,
    Cause,
    Hold,
    Promote,
    Standing,
    Stay,
    decide,
    hold_of,
    next_to_test,
)
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Finding, Outcome, Verdict

FASTQA = parse_branch_name("fastqa")
BUILDS = parse_branch_name("builds")
NOW = 1_700_000_000
DAY = 86_400


def suite(every: float | None = None, limit: float = 60) -> Suite:
    return Suite(FASTQA, BUILDS, ("true",), limit, every)


def build(sequence: int) -> Build:
    origin = hash_bytes(f"origin {sequence}".encode())
    return Build(hash_bytes(str(sequence).encode()), sequence, (origin,))


def verdict(of: Build, outcome: Outcome, number: int = 1) -> Verdict:
    finding = Finding(outcome, "" if outcome is Outcome.PASS else "exit status 3")
    return Verdict(number, of.id, FASTQA, finding, 1.0, "lab-1", "", "", NOW)


def hold(branch: BranchName | None = None, held: ObjectId | None = None) -> Hold:
    return Hold(branch, held, "the lab is on fire", "ann", NOW)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    builds = [build(number) for number in draw(st.sets(st.integers(1, 12), max_size=8))]
    verdicts, holds, running = {}, [], {}
    for number, one in enumerate(builds):
        outcome = draw(st.sampled_from([None, *Outcome]))
        if outcome is not None:
            verdicts[one.id] = verdict(one, outcome, number)
        elif draw(st.booleans()):
            running[one.id] = "lab-2"
        held = draw(st.sampled_from([None, None, None, one.id, one.origins[0]]))
        if held is not None:
            holds.append(hold(held=held))
    if draw(st.integers(0, 5)) == 0:
        holds.append(hold(branch=FASTQA))
    promoted = draw(st.none() | st.integers(1, 12))
    at = None if promoted is None else draw(st.integers(NOW - 2 * DAY, NOW))
    return Standing(builds, verdicts, holds, running, promoted, at)


schedules = st.sampled_from([None, float(DAY)])


@given(standings(), schedules)
def test_only_a_later_build_that_passed_and_is_free_is_promoted(
    standing: Standing, every: float | None
) -> None:
    decision = decide(suite(every), standing, NOW)
    if isinstance(decision, Stay):
        return
    chosen = decision.build
    assert chosen.sequence > (standing.promoted or 0)
    assert standing.verdicts[chosen.id].outcome is Outcome.PASS
    assert hold_of(chosen, standing.holds) is None
    assert not any(hold.branch == FASTQA for hold in standing.holds)
    if every is not None and standing.promoted_at is not None:
        assert standing.promoted_at + every <= NOW


@given(standings(), schedules)
def test_it_is_the_newest_of_those_that_may(standing: Standing, every: float | None) -> None:
    may = [
        one.sequence
        for one in standing.builds
        if one.sequence > (standing.promoted or 0)
        and one.id in standing.verdicts
        and standing.verdicts[one.id].outcome is Outcome.PASS
        and hold_of(one, standing.holds) is None
    ]
    decision = decide(suite(every), standing, NOW)
    if isinstance(decision, Promote):
        assert decision.build.sequence == max(may)
    elif may:
        assert decision.cause in (Cause.BRANCH_HELD, Cause.NOT_DUE)
        assert decision.waiting is not None
        assert decision.waiting.sequence == max(may)


@given(standings(), schedules)
def test_whoever_stays_says_why_and_names_the_verdict(
    standing: Standing, every: float | None
) -> None:
    decision = decide(suite(every), standing, NOW)
    if isinstance(decision, Promote):
        return
    assert decision.reason
    later = [one for one in standing.builds if one.sequence > (standing.promoted or 0)]
    passed_over = {one.build.id for one in decision.blockers}
    assert passed_over | ({decision.waiting.id} if decision.waiting else set()) <= {
        one.id for one in later
    }
    if decision.waiting is None:
        assert passed_over == {one.id for one in later}
    if decision.cause is Cause.FAILED:
        blocking = next(one for one in decision.blockers if one.explanation == decision.reason)
        assert blocking.verdict is not None
        assert f"verdict {blocking.verdict.number}" in decision.reason
        assert blocking.build.id.hex()[:12] in decision.reason
        assert blocking.verdict.finding.reason in decision.reason


@given(standings(), schedules)
def test_repeated_promotion_only_ever_moves_forward(
    standing: Standing, every: float | None
) -> None:
    seen = [standing.promoted or 0]
    now = NOW
    for _ in range(20):
        decision = decide(suite(every), standing, now)
        if isinstance(decision, Promote):
            seen.append(decision.build.sequence)
            standing = Standing(
                standing.builds, standing.verdicts, standing.holds, standing.running,
                decision.build.sequence, now,
            )  # fmt: skip
        now += DAY
    assert seen == sorted(set(seen))


@given(standings())
def test_what_is_claimed_is_later_untested_and_free(standing: Standing) -> None:
    found = next_to_test(suite(), standing, NOW)
    if isinstance(found, Stay):
        assert found.reason
        return
    assert found.sequence > (standing.promoted or 0)
    assert found.id not in standing.verdicts
    assert found.id not in (standing.running or {})
    assert hold_of(found, standing.holds) is None


def test_a_failed_build_is_named_before_one_that_is_merely_untested() -> None:
    old, new = build(1), build(2)
    standing = Standing([new, old], {old.id: verdict(old, Outcome.FAIL, 7)})
    decision = decide(suite(), standing, NOW)
    assert isinstance(decision, Stay)
    assert decision.cause is Cause.FAILED
    assert "build 1" in decision.reason
    assert "verdict 7" in decision.reason
    assert [blocker.cause for blocker in decision.blockers] == [Cause.UNTESTED, Cause.FAILED]


def test_a_slow_old_pass_moves_nothing_back() -> None:
    old, new = build(1), build(2)
    standing = Standing([new, old], {old.id: verdict(old, Outcome.PASS)}, promoted=2)
    decision = decide(suite(), standing, NOW)
    assert isinstance(decision, Stay)
    assert decision.cause is Cause.UP_TO_DATE


def test_a_scheduled_suite_begins_as_early_as_its_limit_asks() -> None:
    standing = Standing([build(2)], {}, promoted=1, promoted_at=NOW)
    daily = suite(every=DAY, limit=3600)
    early = next_to_test(daily, standing, NOW + DAY - 3601)
    assert isinstance(early, Stay)
    assert early.cause is Cause.NOT_DUE
    assert next_to_test(daily, standing, NOW + DAY - 3600) == build(2)


def test_a_source_without_builds_is_said_so() -> None:
    decision = decide(suite(), Standing([], {}), NOW)
    assert isinstance(decision, Stay)
    assert decision.cause is Cause.EMPTY
