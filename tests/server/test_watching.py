"""Promise: what follows a change is asked for, whoever made the change, and only then."""

from datetime import timedelta
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.errors import CorruptError
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database, open_database
from hacktree.server.jobs import FARM, Kind, enqueue, list_jobs, succeed, take_next
from hacktree.server.watching import Watch
from support.pulling import make_repository
from support.qa import FASTQA, PASS, QaFarm
from support.trees import make_commit
from support.trusting import BUILDS, SignedFarm

NOW = 1_900_000_000
DASHBOARD = (Kind.DASHBOARD, FARM)


@pytest.fixture
def farm(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "farm")


def asked(database: Database) -> set[tuple[Kind, str]]:
    """What was asked for since the last time."""
    jobs = set()
    while job := take_next(database, tuple(Kind), NOW * 2):
        jobs.add((job.kind, job.subject))
        succeed(database, job, NOW)
        if job.kind is Kind.DASHBOARD:
            break
    return jobs


def test_each_change_asks_for_what_shows_it(farm: Repository) -> None:
    database = open_database(farm)
    watch = Watch(farm, database)
    make_commit(farm, {"f": b"1"}, branch="builds")
    watch.look(NOW)
    assert asked(database) == {(Kind.DELTAS, "builds"), DASHBOARD}
    watch.look(NOW)
    assert asked(database) == set()
    make_commit(farm, {"f": b"2"}, branch="side")
    watch.look(NOW)
    assert asked(database) == {(Kind.DELTAS, "side"), DASHBOARD}
    (farm.path / "server.toml").write_text("")
    watch.look(NOW)
    assert asked(database) == {DASHBOARD}
    watch.look(NOW + 3600)
    assert asked(database) == {DASHBOARD}


def test_a_prune_asks_for_the_history(farm: Repository) -> None:
    database = open_database(farm)
    watch = Watch(farm, database)
    for number in range(4):
        make_commit(farm, {"f": bytes([number])}, branch="builds")
    make_commit(farm, {"f": b"1"}, branch="side")
    watch.look(NOW)
    asked(database)
    (farm.path / "config.toml").write_text('min-free-space = "0"\nkeep-unreachable-hours = 0\n')
    assert main(["--repo", str(farm.path), "prune", "--keep-depth", "1", "--quiet"]) == 0
    watch.look(NOW)
    assert asked(database) == {(Kind.HISTORY, "builds"), DASHBOARD}


def test_leases_that_can_not_be_settled_hold_nothing_up(farm: Repository) -> None:
    database = open_database(farm)
    (farm.state / "leases/stray").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        Watch(farm, database).look(NOW)
    assert asked(database) == {DASHBOARD}


def test_lost_pages_are_found_when_a_server_starts(farm: Repository) -> None:
    make_commit(farm, {"f": b"1"}, branch="builds")
    (farm.path / "branches/builds/history/tail").unlink()
    assert main(["--repo", str(farm.path), "--quiet", "jobs", "run"]) == 0
    assert (farm.path / "branches/builds/history/tail").exists()
    done = {(job.kind, job.subject) for job in list_jobs(open_database(farm))}
    assert (Kind.HISTORY, "builds") in done


def test_signatures_are_renewed_by_a_job_when_it_is_time(tmp_path: Path) -> None:
    signed = SignedFarm(make_repository(tmp_path / "farm"))
    farm, database = signed.repository, open_database(signed.repository)
    watch = Watch(farm, database)
    now = int(signed.now.timestamp())
    watch.look(now)
    assert asked(database) == {DASHBOARD}
    later = now + int(timedelta(days=4).total_seconds())
    watch.look(later)
    assert asked(database) == {(Kind.TRUST, FARM), DASHBOARD}


def test_a_look_that_failed_is_made_good(farm: Repository) -> None:
    database = open_database(farm)
    head = make_commit(farm, {"f": b"1"}, branch="builds")
    watch = Watch(farm, database)
    damaged = farm.path / "refs/builds"
    damaged.write_text("no id")
    with pytest.raises(CorruptError):
        watch.look(NOW)
    assert asked(database) == set()
    damaged.write_text(f"{head.hex()}\n")
    watch.look(NOW)
    assert asked(database) == {(Kind.DELTAS, "builds"), DASHBOARD}


def test_claims_verdicts_holds_and_promotions_ask_by_themselves(farm: Repository) -> None:
    """In the same transaction, so that no crash comes between."""
    qa = QaFarm(farm)
    base = ["--repo", str(farm.path)]
    qa.build()
    qa.judge(PASS)
    assert asked(qa.database) == {DASHBOARD}
    assert main([*base, "--quiet", "hold", FASTQA, "--reason", "why"]) == 0
    assert asked(qa.database) == {DASHBOARD}
    assert main([*base, "--quiet", "release", FASTQA, "--reason", "why"]) == 0
    assert asked(qa.database) == {DASHBOARD}
    assert main([*base, "--quiet", "qa", "sign", FASTQA]) == 0
    assert asked(qa.database) == {(Kind.DELTAS, FASTQA), DASHBOARD}


def test_the_signed_farm_s_job_renews(tmp_path: Path) -> None:
    """The real command, on signatures that were made five days ago."""
    signed = SignedFarm(make_repository(tmp_path / "farm"))
    with signed.at(-timedelta(days=5)):
        signed.commit({"f": b"1"}, BUILDS)
    before = signed.store.load().timestamp.signed.version
    enqueue(open_database(signed.repository), Kind.TRUST, FARM, 0)
    assert main(["--repo", str(signed.repository.path), "--quiet", "jobs", "run"]) == 0
    assert signed.store.load().timestamp.signed.version == before + 1
