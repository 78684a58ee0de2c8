"""Doing jobs, each by a process of its own that gives way to everything else.

A server has two lanes, in each of which one job runs at a time: packs take minutes to hours, and a
signature or the dashboard must not wait for them.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hacktree.common.errors import HacktreeError
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database
from hacktree.server.jobs import Job, Kind, fail, give_back, succeed, take_next

_LOG: Final = logging.getLogger("hacktree.server.jobs")
_PAUSE: Final = 5.0
"""Seconds between two looks at what is due."""

LANES: Final = ((Kind.HISTORY, Kind.TRUST, Kind.DASHBOARD), (Kind.DELTAS, Kind.LEASES))
"""Kinds whose jobs wait for one another, in their order."""

_NICENESS: Final = 10
_PATIENCE: Final = 20.0
"""Seconds that a job's process has to end when it is told to."""

Command = Callable[[Job], list[str]]
"""The program and its arguments for a job."""


def command_of(repository: Path) -> Command:
    """The commands of hacktree itself, on this repository."""
    program = "import sys; from hacktree.common.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def command(job: Job) -> list[str]:
        words = {
            Kind.HISTORY: ["history", job.subject],
            Kind.TRUST: ["trust", "renew"],
            Kind.DELTAS: ["delta", "generate", job.subject],
            Kind.LEASES: ["lease", "pack", job.subject],
            Kind.DASHBOARD: ["dashboard"],
        }[job.kind]
        return [sys.executable, "-c", program, "--repo", str(repository), *words]

    return command


@contextmanager
def hold_jobs(repository: Repository) -> Iterator[None]:
    """Be the only one who does the jobs of a repository; raises `BusyError`."""
    path = repository.state / "jobs.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE):
        yield


class JobRunner:
    """Does the jobs of one database. Whoever runs it holds `hold_jobs`."""

    def __init__(self, database: Database, command: Command, clock: Callable[[], float]) -> None:
        self._database = database
        self._command = command
        self._clock = clock

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Until cancelled; what was interrupted then, or by a crash before, waits again."""
        await asyncio.to_thread(give_back, self._database, self._now())
        async with asyncio.TaskGroup() as lanes:
            for kinds in LANES:
                lanes.create_task(self._run_lane(kinds, sleep))

    async def _run_lane(
        self, kinds: Sequence[Kind], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        while True:
            # What is asked for meanwhile is done in the next turn: however many builds are pushed,
            # the dashboard is made once in a turn.
            began = self._now()
            try:
                while await self.run_next(kinds, began):
                    pass
            except HacktreeError as error:
                _LOG.error("jobs: %s; trying again", error)
            await sleep(_PAUSE)

    async def run_due(self) -> int:
        """Do all that is due, and what a crash interrupted; returns how many were begun."""
        await asyncio.to_thread(give_back, self._database, self._now())
        begun = 0
        while await self.run_next(tuple(Kind), self._now()):
            begun += 1
        return begun

    async def run_next(self, kinds: Sequence[Kind], due: int) -> bool:
        """Do the next job of these kinds that was due at `due`; returns whether there was one."""
        job = await asyncio.to_thread(take_next, self._database, kinds, due)
        if job is None:
            return False
        _LOG.info("job %d: %s of %s begins", job.id, job.kind, job.subject)
        try:
            status, output = await self._execute(job)
        except asyncio.CancelledError:
            give_back(self._database, self._now(), job)
            raise
        except OSError as error:
            # No process to spare, say: raised, it would end this lane and the other one.
            status, output = 1, f"can't be started: {error}".encode()
        if status == 0:
            await asyncio.to_thread(succeed, self._database, job, self._now())
            _LOG.info("job %d is done", job.id)
        else:
            text = output.decode(errors="replace") or f"exit status {status}"
            await asyncio.to_thread(fail, self._database, job, text, self._now())
            _LOG.error("job %d failed: %s", job.id, text[-500:])
        return True

    async def _execute(self, job: Job) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            # nice(1), not preexec_fn: this process has threads, which a fork does not take along.
            *("nice", "-n", str(_NICENESS), *self._command(job)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, output = await process.communicate()
        except asyncio.CancelledError:
            await _end(process)
            raise
        return process.returncode or 0, output

    def _now(self) -> int:
        return int(self._clock())


async def _end(process: asyncio.subprocess.Process) -> None:
    """The whole group: encoders are processes of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                await process.wait()
        except TimeoutError:
            continue
