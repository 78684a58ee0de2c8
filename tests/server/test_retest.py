"""Promises: a person gives a build another run, on the record; logs of verdicts don't pile up."""

import os
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.repository.refs import read_ref
from hacktree.server.grants import parse_grant
from hacktree.server.promotion.decision import Cause, Stay
from hacktree.server.promotion.desk import Report
from hacktree.server.promotion.logs import LogLimits, keep_log, log_path, prune_logs
from hacktree.server.promotion.promoting import Farm, Promoted, promote_next
from hacktree.server.promotion.retesting import NotRetestableError, retest
from hacktree.server.promotion.settings import read_log_limits
from hacktree.server.promotion.suites import SuiteInvalidError
from hacktree.server.tokens import create_token
from support.pulling import make_repository
from support.qa import FAIL, FASTQA, PASS, START, UNSURE, QaFarm
from support.servers import api_serving

NOTE = ("the switch was broken", "ann")
DAY = 86_400


@pytest.fixture
def qa(tmp_path: Path) -> QaFarm:
    return QaFarm(make_repository(tmp_path / "farm"))


def turn(qa: QaFarm) -> Promoted | Stay:
    return promote_next(Farm(qa.repository, qa.database), qa.suite(), START)


def ask(qa: QaFarm, revision: str | None = None) -> bytes:
    return retest(qa.repository, qa.database, qa.suite(), revision, NOTE, START).build


@pytest.mark.parametrize("first", [FAIL, UNSURE])
def test_a_build_is_tested_again_and_moves_on(qa: QaFarm, first: Report) -> None:
    build = qa.build()
    qa.judge(first)
    assert ask(qa) == build
    stays = turn(qa)
    assert isinstance(stays, Stay)
    assert stays.cause is Cause.UNTESTED
    assert "ann" in stays.reason
    assert "the switch was broken" in stays.reason
    again = qa.judge(PASS)
    assert again.build == build
    done = turn(qa)
    assert isinstance(done, Promoted)
    assert f"verdict {again.number}" in str(done.commit.metadata["promotion-reason"])
    with qa.database.reading() as connection:
        assert connection.execute("SELECT COUNT(*) FROM verdicts").fetchone()[0] == 2


def test_it_can_fail_again_and_that_stands(qa: QaFarm) -> None:
    qa.build()
    qa.judge(FAIL)
    ask(qa)
    second = qa.judge(FAIL)
    stays = turn(qa)
    assert isinstance(stays, Stay)
    assert stays.cause is Cause.FAILED
    assert f"verdict {second.number}" in stays.reason


def test_what_a_retest_would_not_change_is_refused(qa: QaFarm) -> None:
    with pytest.raises(NotRetestableError, match="no build"):
        ask(qa)
    old = qa.build("old")
    with pytest.raises(NotRetestableError, match="not judged"):
        ask(qa, old.hex())
    qa.judge(PASS)
    with pytest.raises(NotRetestableError, match="has passed"):
        ask(qa, old.hex())
    turn(qa)
    head = read_ref(qa.repository, FASTQA)
    assert head is not None
    for gone in (old, head):
        with pytest.raises(NotRetestableError, match="is no build of builds that"):
            ask(qa, gone.hex())
    qa.build("new")
    qa.judge(FAIL)
    with pytest.raises(NotRetestableError, match="reason"):
        retest(qa.repository, qa.database, qa.suite(), None, (" ", "ann"), START)
    ask(qa)
    with pytest.raises(NotRetestableError):
        ask(qa)


def test_people_ask_from_elsewhere_and_runners_may_not(
    qa: QaFarm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = qa.build()
    qa.judge(FAIL)
    for action in ("verdict", "promote"):
        secret = create_token(qa.database, [parse_grant(f"{action}:fastqa")], "", None, START)[1]
        (tmp_path / action).write_text(secret)
    words = ["qa", "retest", "fastqa", "--reason", "flaky lab"]
    with api_serving(qa.repository.path) as server:
        farm = ["--server", server.url, "--token-file"]
        assert main([*words, *farm, str(tmp_path / "verdict")]) == 4
        assert "may not promote" in capsys.readouterr().err
        assert main([*words, *farm, str(tmp_path / "promote")]) == 0
        assert build.hex()[:12] in capsys.readouterr().out
        assert main([*words, "--build", build.hex(), *farm, str(tmp_path / "promote")]) == 4
    qa.judge(FAIL)
    assert main(["--repo", str(qa.repository.path), *words, "--build", "builds~0"]) == 0
    assert main(["--repo", str(qa.repository.path), *words, "--build", "builds~0"]) == 2


def keep(qa: QaFarm, text: bytes, age: float) -> Path:
    path = log_path(qa.repository, keep_log(qa.repository, text))
    os.utime(path, (START - age, START - age))
    return path


def test_logs_go_by_age_and_size_but_not_the_newest(qa: QaFarm) -> None:
    big = b"x" * (1 << 20)
    fresh = [keep(qa, big[:-1] + bytes([i]), i) for i in range(17)]
    older = [keep(qa, big[:-2] + b"y" + bytes([i]), DAY + i) for i in range(3)]
    ancient = keep(qa, b"old", 91 * DAY)
    assert prune_logs(qa.repository, LogLimits(90 * DAY, 1 << 30), START) == 1
    assert not ancient.exists()
    assert prune_logs(qa.repository, LogLimits(90 * DAY, 18 << 20), START) == 2
    assert [path.exists() for path in older] == [True, False, False]
    # The last hour's are kept, even where they are too many.
    assert prune_logs(qa.repository, LogLimits(90 * DAY, 16 << 20), START) == 1
    assert all(path.exists() for path in fresh)


def test_a_verdict_prunes_logs_and_a_log_that_is_used_again_is_young(qa: QaFarm) -> None:
    ancient, same = keep(qa, b"old", 91 * DAY), keep(qa, FAIL.log, 91 * DAY)
    qa.build()
    verdict = qa.judge(FAIL)
    assert not ancient.exists()
    assert log_path(qa.repository, verdict.log) == same
    assert same.exists()


def test_limits_stand_in_the_settings(qa: QaFarm, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_log_limits(qa.repository) == LogLimits(90 * DAY, 1 << 30)
    settings = qa.repository.path / "server.toml"
    text = settings.read_text()
    settings.write_text(f'{text}[logs]\nkeep = "30d"\nmax-size = "2GiB"\n')
    assert read_log_limits(qa.repository) == LogLimits(30 * DAY, 2 << 30)
    for wrong in ('keep = "5m"', 'max-size = "1MiB"', 'keep = "x"', "kept = 1"):
        settings.write_text(f"{text}[logs]\n{wrong}\n")
        with pytest.raises(SuiteInvalidError, match="server"):
            read_log_limits(qa.repository)
    settings.write_text(text)
    qa.build()
    log_path(qa.repository, qa.judge(FAIL).log).unlink()
    assert main(["--repo", str(qa.repository.path), "branch", "status", "fastqa"]) == 0
    assert "deleted by age or size" in capsys.readouterr().out
