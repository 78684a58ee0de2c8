"""Promises: what passed moves on once, signed, forwards only; a kill in between is made good."""

from pathlib import Path

import pytest

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.refs import read_ref
from hacktree.common.trust import editing
from hacktree.server.promotion.decision import Cause, Stay
from hacktree.server.promotion.desk import Assignment
from hacktree.server.promotion.holding import (
    HoldInvalidError,
    NotHeldError,
    Subject,
    find_subject,
    hold,
    release,
)
from hacktree.server.promotion.promoted import Note
from hacktree.server.promotion.promoting import (
    Farm,
    HeadUnsignedError,
    KeyNeededError,
    Promoted,
    PromotionRefusedError,
    promote_by_hand,
    promote_next,
)
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.status import NoBranchError, as_json, branch_status
from support.pulling import make_repository
from support.qa import DAILYQA, FAIL, FASTQA, PASS, START, QaFarm
from support.trees import Spec, make_commit
from support.trusting import BUILDS, SignedFarm, new_signer

NOTE = Note("the lab is down", "ann")


@pytest.fixture
def qa(tmp_path: Path) -> QaFarm:
    return QaFarm(make_repository(tmp_path / "farm"))


@pytest.fixture
def signed(qa: QaFarm) -> SignedFarm:
    return SignedFarm(qa.repository)


def open_farm(qa: QaFarm) -> Farm:
    return Farm(qa.repository, qa.database)


def signing(qa: QaFarm, signed: SignedFarm) -> Farm:
    return Farm(qa.repository, qa.database, signed.keys[FASTQA])


def sign_build(qa: QaFarm, signed: SignedFarm, content: str = "1") -> ObjectId:
    build = qa.build(content)
    signed.sign(build, BUILDS)
    return build


def test_a_pass_is_promoted_once(qa: QaFarm) -> None:
    build = qa.build()
    qa.judge(PASS)
    done = promote_next(open_farm(qa), qa.suite(), START)
    assert isinstance(done, Promoted)
    assert read_ref(qa.repository, FASTQA) == done.head
    commit = qa.repository.load_commit(done.head)
    assert commit.root == qa.repository.load_commit(build).root
    assert commit.metadata["promoted-from"] == build.hex()
    assert "verdict 1" in str(commit.metadata["promotion-reason"])
    assert (commit.branch, commit.time) == (FASTQA, START)
    again = promote_next(open_farm(qa), qa.suite(), START)
    assert isinstance(again, Stay)
    assert again.cause is Cause.UP_TO_DATE


def test_a_slow_old_pass_moves_nothing_back(qa: QaFarm) -> None:
    qa.build("old")
    qa.build("new")
    desk = qa.desk()
    fast, slow = desk.claim(FASTQA, "lab-1"), desk.claim(FASTQA, "lab-2")
    assert isinstance(fast, Assignment)
    assert isinstance(slow, Assignment)
    desk.report(fast.lease, PASS)
    done = promote_next(open_farm(qa), qa.suite(), START)
    assert isinstance(done, Promoted)
    desk.report(slow.lease, PASS)
    assert isinstance(promote_next(open_farm(qa), qa.suite(), START), Stay)
    assert read_ref(qa.repository, FASTQA) == done.head


def test_the_blocking_verdict_is_named(qa: QaFarm) -> None:
    build = qa.build()
    verdict = qa.judge(FAIL)
    status = branch_status(qa.repository, qa.database, read_suites(qa.repository), FASTQA, START)
    assert build.hex()[:12] in status.reason
    assert f"verdict {verdict.number}" in status.reason
    assert "exit status 3" in status.reason
    document = as_json(status)
    assert document["cause"] == "failed"
    assert document["blockers"][0]["verdict"]["log"] == verdict.log
    assert document["moving"] is False


def test_dailyqa_takes_from_fastqa_once_a_day(qa: QaFarm) -> None:
    for content in ("1", "2"):
        qa.build(content)
        qa.judge(PASS)
        promote_next(open_farm(qa), qa.suite(), START)
        if content == "1":
            qa.judge(PASS, DAILYQA)
            first = promote_next(open_farm(qa), qa.suite(DAILYQA), START)
            assert isinstance(first, Promoted)
    qa.clock.now = START + 86_400 - 3600
    qa.judge(PASS, DAILYQA)
    early = promote_next(open_farm(qa), qa.suite(DAILYQA), START + 86_399)
    assert isinstance(early, Stay)
    assert early.cause is Cause.NOT_DUE
    later = promote_next(open_farm(qa), qa.suite(DAILYQA), START + 86_400)
    assert isinstance(later, Promoted)
    assert later.build == read_ref(qa.repository, FASTQA)


def test_a_hold_on_a_build_follows_it(qa: QaFarm) -> None:
    build = qa.build()
    qa.judge(PASS)
    promote_next(open_farm(qa), qa.suite(), START)
    qa.judge(PASS, DAILYQA)
    subject = find_subject(qa.repository, read_suites(qa.repository), build.hex())
    hold(qa.database, subject, "breaks suspend", "ann", START)
    stays = promote_next(open_farm(qa), qa.suite(DAILYQA), START)
    assert isinstance(stays, Stay)
    assert stays.cause is Cause.HELD
    assert "breaks suspend" in stays.reason
    assert "ann" in stays.reason
    release(qa.database, subject, "fixed in firmware", "ben", START)
    assert isinstance(promote_next(open_farm(qa), qa.suite(DAILYQA), START), Promoted)


def test_a_held_branch_stays_until_it_is_released(qa: QaFarm) -> None:
    qa.build()
    qa.judge(PASS)
    suites = read_suites(qa.repository)
    subject = find_subject(qa.repository, suites, "fastqa")
    hold(qa.database, subject, "release week", "ann", START)
    stays = promote_next(open_farm(qa), qa.suite(), START)
    assert isinstance(stays, Stay)
    assert stays.cause is Cause.BRANCH_HELD
    build = read_ref(qa.repository, "builds")
    assert build is not None
    with pytest.raises(PromotionRefusedError, match="release week"):
        promote_by_hand(open_farm(qa), qa.suite(), FASTQA, build, NOTE, START)
    assert release(qa.database, subject, "over", "ann", START) == 1
    with pytest.raises(NotHeldError):
        release(qa.database, subject, "over", "ann", START)
    assert isinstance(promote_next(open_farm(qa), qa.suite(), START), Promoted)


def test_holding_what_nothing_promotes_to_is_refused(qa: QaFarm) -> None:
    qa.build()
    suites = read_suites(qa.repository)
    with pytest.raises(HoldInvalidError, match="no suite promotes to builds"):
        find_subject(qa.repository, suites, "builds")
    subject = find_subject(qa.repository, suites, "builds~0")
    assert subject.build == read_ref(qa.repository, "builds")
    with pytest.raises(HoldInvalidError, match="reason"):
        hold(qa.database, subject, " ", "ann", START)


def test_a_person_promotes_with_a_reason_and_forwards_only(qa: QaFarm) -> None:
    old, failed = qa.build("old"), qa.build("failed")
    qa.judge(FAIL)
    with pytest.raises(PromotionRefusedError, match="reason"):
        promote_by_hand(open_farm(qa), qa.suite(), FASTQA, failed, Note("", "ann"), START)
    done = promote_by_hand(open_farm(qa), qa.suite(), FASTQA, failed, NOTE, START)
    assert done.commit.metadata["promotion-reason"] == "the lab is down"
    assert done.commit.metadata["promoted-by"] == "ann"
    again = promote_by_hand(open_farm(qa), qa.suite(), FASTQA, failed, NOTE, START)
    assert (again.head, again.repeated) == (done.head, True)
    with pytest.raises(PromotionRefusedError, match="not newer"):
        promote_by_hand(open_farm(qa), qa.suite(), FASTQA, old, NOTE, START)
    other = make_commit(qa.repository, {"f": b"1"}, branch="elsewhere")
    with pytest.raises(PromotionRefusedError, match="a build of elsewhere"):
        promote_by_hand(open_farm(qa), qa.suite(), FASTQA, other, NOTE, START)


def test_a_branch_without_a_suite_takes_builds_of_others(qa: QaFarm) -> None:
    build = qa.build()
    demo = parse_branch_name("demo")
    done = promote_by_hand(open_farm(qa), None, demo, build, NOTE, START)
    assert done.commit.metadata["promoted-from"] == build.hex()
    status = branch_status(qa.repository, qa.database, {}, demo, START)
    assert "no suite" in status.reason
    with pytest.raises(NoBranchError):
        branch_status(qa.repository, qa.database, {}, parse_branch_name("nowhere"), START)


def test_a_branch_without_a_suite_takes_no_held_build(qa: QaFarm) -> None:
    build, demo = qa.build(), parse_branch_name("demo")
    hold(qa.database, Subject(None, build), "breaks suspend", "ann", START)
    with pytest.raises(PromotionRefusedError, match="breaks suspend"):
        promote_by_hand(open_farm(qa), None, demo, build, NOTE, START)
    assert read_ref(qa.repository, demo) is None
    release(qa.database, Subject(None, build), "mended", "ann", START)
    assert promote_by_hand(open_farm(qa), None, demo, build, NOTE, START).build == build


def test_a_signed_farm_needs_the_suites_key_before_anything_moves(
    qa: QaFarm, signed: SignedFarm
) -> None:
    sign_build(qa, signed)
    qa.judge(PASS)
    for key in (None, new_signer(), signed.keys[BUILDS]):
        with pytest.raises(KeyNeededError):
            promote_next(Farm(qa.repository, qa.database, key), qa.suite(), START)
    assert read_ref(qa.repository, FASTQA) is None


def test_a_promotion_is_signed(qa: QaFarm, signed: SignedFarm) -> None:
    sign_build(qa, signed)
    qa.judge(PASS)
    done = promote_next(signing(qa, signed), qa.suite(), START)
    assert isinstance(done, Promoted)
    assert editing.head_signed(signed.store.load(), FASTQA) == done.head


def test_only_signed_builds_count_on_a_signed_farm(qa: QaFarm, signed: SignedFarm) -> None:
    """Whoever can write refs, but has no key, gets nothing tested and nothing promoted."""
    sign_build(qa, signed)
    qa.build("unsigned")
    assert qa.judge(PASS).build == editing.head_signed(signed.store.load(), BUILDS)
    done = promote_next(signing(qa, signed), qa.suite(), START)
    assert isinstance(done, Promoted)
    assert done.build == editing.head_signed(signed.store.load(), BUILDS)


def test_a_signer_that_died_after_its_commit_point_is_completed(
    qa: QaFarm, signed: SignedFarm
) -> None:
    """Signed, and the ref not moved yet: the next turn moves it, and promotes nothing twice."""
    sign_build(qa, signed)
    qa.judge(PASS)
    done = promote_next(signing(qa, signed), qa.suite(), START)
    assert isinstance(done, Promoted)
    (qa.repository.path / "refs/fastqa").unlink()
    assert isinstance(promote_next(signing(qa, signed), qa.suite(), START + 60), Stay)
    assert read_ref(qa.repository, FASTQA) == done.head


@pytest.mark.parametrize("tree", [{"bin/tool": b"#!"}, {"bin/sh": b"evil"}])
def test_what_somebody_committed_unsigned_is_not_signed_over(
    qa: QaFarm, signed: SignedFarm, tree: dict[str | bytes, Spec]
) -> None:
    """Whoever can write to the repository commits in the name of a good build."""
    build = sign_build(qa, signed)
    qa.judge(PASS)
    forged = make_commit(
        qa.repository, tree, branch="fastqa", metadata={"promoted-from": build.hex()}
    )
    status = branch_status(qa.repository, qa.database, read_suites(qa.repository), FASTQA, START)
    assert status.signed is False
    assert "not signed" in status.reason
    with pytest.raises(HeadUnsignedError, match="is not signed"):
        promote_next(signing(qa, signed), qa.suite(), START)
    with pytest.raises(HeadUnsignedError):
        promote_by_hand(signing(qa, signed), qa.suite(), FASTQA, build, NOTE, START)
    assert editing.head_signed(signed.store.load(), FASTQA) is None
    assert read_ref(qa.repository, FASTQA) == forged
