"""Promise: what follows a publication is done, once, whatever happens to the server meanwhile."""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hacktree.common.cli.main import main
from hacktree.common.errors import BusyError
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database, open_database
from hacktree.server.jobrunner import LANES, JobRunner, command_of, hold_jobs
from hacktree.server.jobs import (
    FARM,
    KEPT,
    MAX_ATTEMPTS,
    Job,
    JobMissingError,
    Kind,
    State,
    delay,
    enqueue,
    fail,
    give_back,
    list_jobs,
    retry,
    succeed,
    take_next,
)
from support.pulling import make_repository
from support.servers import api_serving
from support.trees import make_commit


@pytest.fixture
def farm(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "farm")


@pytest.fixture
def database(farm: Repository) -> Database:
    return open_database(farm)


PACKS = (Kind.DELTAS,)


def packs_of(database: Database) -> list[Job]:
    """The jobs that make packs: whatever ends one asks for the dashboard as well."""
    return [job for job in list_jobs(database) if job.kind is Kind.DELTAS]


def states(database: Database) -> list[tuple[str, State]]:
    return [(job.subject, job.state) for job in packs_of(database)]


def taken(database: Database, now: int, kinds: Sequence[Kind] = PACKS) -> Job:
    job = take_next(database, kinds, now)
    assert job is not None
    return job


def test_asked_for_twice_it_is_one_job(database: Database) -> None:
    for _ in range(3):
        enqueue(database, Kind.DELTAS, "builds", 10)
    enqueue(database, Kind.DELTAS, "fastqa", 11)
    assert states(database) == [("fastqa", State.WAITING), ("builds", State.WAITING)]


def test_asked_for_while_it_runs_it_runs_once_more(database: Database) -> None:
    enqueue(database, Kind.DELTAS, "builds", 10)
    job = taken(database, 10)
    for _ in range(2):
        enqueue(database, Kind.DELTAS, "builds", 11)
    assert take_next(database, PACKS, 12) is None
    succeed(database, job, 12)
    assert states(database) == [("builds", State.WAITING), ("builds", State.DONE)]
    succeed(database, taken(database, 13), 13)
    assert take_next(database, PACKS, 14) is None


def test_what_fails_is_tried_again_later_and_not_for_ever(database: Database) -> None:
    enqueue(database, Kind.DELTAS, "builds", 0)
    now = 0
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = taken(database, now)
        assert job.attempts == attempt
        fail(database, job, "x" * 10_000 + "why", now)
        assert take_next(database, PACKS, now + delay(attempt) - 1) is None
        now += delay(attempt)
    (failed,) = packs_of(database)
    assert failed.state is State.FAILED
    assert failed.error.endswith("why")
    assert len(failed.error) < 5000
    assert take_next(database, PACKS, now * 10) is None
    retry(database, failed.id, now)
    assert taken(database, now).attempts == 1
    with pytest.raises(JobMissingError):
        retry(database, failed.id, now)


def test_a_clock_that_was_set_back_keeps_nothing_waiting(database: Database) -> None:
    """But what failed waits as long as it has to, however often it is asked for."""
    enqueue(database, Kind.DELTAS, "builds", 1000)
    enqueue(database, Kind.DELTAS, "builds", 10)
    job = taken(database, 10)
    fail(database, job, "why", 10)
    enqueue(database, Kind.DELTAS, "builds", 11)
    assert take_next(database, PACKS, 10 + delay(1) - 1) is None


def test_a_failed_job_is_not_retried_beside_a_new_one(database: Database) -> None:
    enqueue(database, Kind.DELTAS, "builds", 0)
    for _ in range(MAX_ATTEMPTS):
        fail(database, taken(database, 10**9), "", 0)
    (failed,) = packs_of(database)
    enqueue(database, Kind.DELTAS, "builds", 1)
    with pytest.raises(JobMissingError, match="waits or runs"):
        retry(database, failed.id, 1)


def test_an_interrupted_job_waits_again_without_an_attempt_less(database: Database) -> None:
    enqueue(database, Kind.DELTAS, "builds", 0)
    taken(database, 0)
    assert give_back(database, 5) == 1
    assert give_back(database, 5) == 0
    assert taken(database, 5).attempts == 1


def test_old_jobs_are_forgotten(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT > 100
    monkeypatch.setattr("hacktree.server.jobs.KEPT", 3)
    for number in range(6):
        enqueue(database, Kind.DELTAS, f"b{number}", number)
        succeed(database, taken(database, number), number)
    assert [job.subject for job in packs_of(database)] == ["b5", "b4", "b3"]


def test_what_succeeds_pushes_out_nothing_that_failed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token for leases alone can have any number of jobs done."""
    monkeypatch.setattr("hacktree.server.jobs.KEPT", 2)
    monkeypatch.setattr("hacktree.server.jobs.MAX_ATTEMPTS", 1)
    enqueue(database, Kind.DELTAS, "bad", 0)
    fail(database, taken(database, 0), "why", 0)
    for number in range(4):
        enqueue(database, Kind.LEASES, f"{number:032x}", number)
        succeed(database, taken(database, number, (Kind.LEASES,)), number)
    states = [job.state for job in list_jobs(database) if job.kind is not Kind.DASHBOARD]
    assert states == [State.DONE, State.DONE, State.FAILED]


def test_dashboards_push_out_nothing(database: Database) -> None:
    """They are made so often that what failed would soon be forgotten."""
    for number in range(3):
        enqueue(database, Kind.DASHBOARD, FARM, number)
        succeed(database, taken(database, number, tuple(Kind)), number)
    assert [(job.id, job.state) for job in list_jobs(database)] == [(3, State.DONE)]


def test_the_dashboard_is_made_after_what_it_shows(database: Database) -> None:
    for kind in reversed(Kind):
        enqueue(database, kind, "x", 0)
    order = []
    while job := take_next(database, tuple(Kind), 9):
        succeed(database, job, 9)
        order.append(job.kind)
    assert order == [Kind.HISTORY, Kind.TRUST, Kind.DELTAS, Kind.LEASES, *[Kind.DASHBOARD] * 2]


def test_a_job_that_ends_asks_for_the_dashboard(database: Database) -> None:
    enqueue(database, Kind.DELTAS, "builds", 0)
    fail(database, taken(database, 0), "why", 0)
    asked = taken(database, 0, (Kind.DASHBOARD,))
    assert asked.subject == FARM
    succeed(database, asked, 1)
    assert take_next(database, (Kind.DASHBOARD,), 9) is None


def runner(database: Database, script: str) -> JobRunner:
    """Runs `script` for packs, and nothing that takes time for the dashboard."""

    def command(job: Job) -> list[str]:
        return [sys.executable, "-c", script, job.subject] if job.kind in PACKS else ["true"]

    return JobRunner(database, command, lambda: 100)


async def test_each_job_is_a_process_that_gives_way(database: Database, tmp_path: Path) -> None:
    enqueue(database, Kind.DELTAS, str(tmp_path / "said"), 0)
    script = "import os,sys; open(sys.argv[1],'w').write(str(os.nice(0)))"
    assert await runner(database, script).run_due() == 2
    assert int((tmp_path / "said").read_text()) >= min(os.nice(0) + 10, 19)
    assert [job.state for job in packs_of(database)] == [State.DONE]


async def test_what_a_failing_process_says_is_kept(database: Database) -> None:
    enqueue(database, Kind.DELTAS, "builds", 0)
    assert await runner(database, "import sys; sys.exit('no space')").run_due() == 2
    (job,) = packs_of(database)
    assert (job.state, job.error.strip()) == (State.WAITING, "no space")
    assert job.due == 100 + delay(1)


async def test_a_process_that_cannot_be_started_is_a_failed_attempt(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lane ends of it, which would end the other one and be known to nobody."""
    enqueue(database, Kind.DELTAS, "builds", 100)
    monkeypatch.setenv("PATH", "/nowhere")
    assert await runner(database, "").run_next(PACKS, 100)
    (job,) = packs_of(database)
    assert (job.state, job.attempts, job.due) == (State.WAITING, 1, 100 + delay(1))
    assert "can't be started" in job.error


async def test_a_stopped_server_ends_the_process_and_gives_the_job_back(
    database: Database, tmp_path: Path
) -> None:
    """Also the processes that it began, and one that a crash left is taken up by the next."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    enqueue(database, Kind.DELTAS, str(fifo), 0)
    script = (
        "import os,sys,time\n"
        "if os.fork() == 0: time.sleep(600)\n"
        "f = open(sys.argv[1], 'w'); f.write('here'); f.flush(); time.sleep(600)"
    )
    running = asyncio.create_task(runner(database, script).run())
    reader = await asyncio.to_thread(open, fifo)
    with reader:
        assert await asyncio.to_thread(reader.read, 4) == "here"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # The end of the pipe: both of its writers are gone.
        assert await asyncio.to_thread(reader.read) == ""
    assert [(job.state, job.attempts) for job in list_jobs(database)] == [(State.WAITING, 0)]
    taken(database, 200)
    assert await runner(database, "").run_due() == 2
    assert [job.state for job in list_jobs(database)] == [State.DONE, State.DONE]


async def test_packs_are_in_nobodys_way(database: Database, tmp_path: Path) -> None:
    """A server makes the dashboard while a pack, which may take hours, is made."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    enqueue(database, Kind.DELTAS, str(fifo), 0)
    enqueue(database, Kind.DASHBOARD, FARM, 0)
    script = "import sys; open(sys.argv[1]).read()"
    shown = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        # Only the quick lane gets here: nobody writes what the pack waits for.
        shown.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(runner(database, script).run(sleep))
    await shown.wait()
    ended = [job.kind for job in list_jobs(database) if job.state is State.DONE]
    assert ended == [Kind.DASHBOARD]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert states(database) == [(str(fifo), State.WAITING)]


async def test_the_dashboard_is_made_once_in_a_turn(database: Database) -> None:
    """However many builds are pushed while it is made."""
    enqueue(database, Kind.DASHBOARD, FARM, 0)
    now = 100

    def command(job: Job) -> list[str]:
        nonlocal now
        now += 1
        return ["true"]

    made = 0

    class Pushing(JobRunner):
        async def _execute(self, job: Job) -> tuple[int, bytes]:
            nonlocal made
            made += 1
            for _ in range(50):
                enqueue(database, Kind.DASHBOARD, FARM, now)
            return await super()._execute(job)

    turns: list[int] = []

    async def sleep(_seconds: float) -> None:
        turns.append(made)
        if len(turns) == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Pushing(database, command, lambda: now)._run_lane(LANES[0], sleep)
    assert turns == [1, 2, 3]


async def test_a_busy_database_ends_no_lane(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    enqueue(database, Kind.DELTAS, "builds", 0)
    aside = database.path.with_name("aside")
    turns = 0

    async def sleep(_seconds: float) -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            raise asyncio.CancelledError
        aside.rename(database.path)

    database.path.rename(aside)
    with pytest.raises(asyncio.CancelledError):
        await runner(database, "")._run_lane(LANES[1], sleep)
    assert states(database) == [("builds", State.DONE)]
    assert "trying again" in caplog.text


async def test_packs_are_made_by_the_real_command(farm: Repository, database: Database) -> None:
    for number in (1, 2):
        make_commit(farm, {"f": os.urandom(50_000) + bytes([number])}, branch="builds")
    enqueue(database, Kind.DELTAS, "builds", 0)
    enqueue(database, Kind.DELTAS, "nothing", 0)
    jobs = JobRunner(database, command_of(farm.path), lambda: 100)
    assert await jobs.run_due() == 3
    assert states(database) == [("nothing", State.WAITING), ("builds", State.DONE)]
    assert list((farm.path / "packs").iterdir())


def test_jobs_are_listed_retried_and_run_by_hand(
    farm: Repository, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--repo", str(farm.path), "jobs"]
    enqueue(database, Kind.DELTAS, "nothing", 0)
    assert main([*base, "run"]) == 1
    capsys.readouterr()
    assert main([*base, "list"]) == 0
    assert "again at" in capsys.readouterr().out
    assert main([*base, "list", "--json"]) == 0
    assert '"subject": "nothing"' in capsys.readouterr().out
    assert main([*base, "retry", "1"]) == 0
    assert main([*base, "retry", "99"]) == 2
    with hold_jobs(farm):
        assert main([*base, "run"]) == 6
        with pytest.raises(BusyError), hold_jobs(farm):
            pass


def ask_api(url: str, secret: str, *, method: str = "GET", path: str = "") -> Any:
    """The document that the API answers with, or a refusal's status."""
    headers = {"Authorization": f"Bearer {secret}"}
    request = urllib.request.Request(f"{url}/api/v1/jobs{path}", headers=headers, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return json.loads(response.read() or "null")
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


def test_jobs_over_http_are_for_whoever_administers_their_subject(
    farm: Repository, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the whole farm for nobody who administers some branches only."""
    secrets = []
    for pattern in ("side", "**"):
        grant = f"admin:{pattern}"
        create = ["--repo", str(farm.path), "token", "create", "--expires", "1d", "--can", grant]
        assert main(create) == 0
        secrets.append(capsys.readouterr().out.split()[0])
    one, all_of_it = secrets
    for kind, subject in ((Kind.DELTAS, "nothing"), (Kind.TRUST, FARM)):
        enqueue(database, kind, subject, 0)
        for _ in range(MAX_ATTEMPTS):
            fail(database, taken(database, 10**9, (kind,)), "why", 0)
    with api_serving(farm.path) as server:
        assert ask_api(server.url, one)["jobs"] == []
        jobs = {job["kind"]: job for job in ask_api(server.url, all_of_it)["jobs"]}
        assert jobs["trust"]["subject"] == FARM
        path = f"/{jobs['trust']['id']}/retry"
        assert ask_api(server.url, one, method="POST", path=path) == 403
        assert ask_api(server.url, all_of_it, method="POST", path=path) is None
