"""`hacktree jobs`: the work that follows publications, and how it went."""

import argparse
import asyncio
import time

from msgspec.structs import asdict

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time, say, show
from hacktree.common.repository.repository import Repository
from hacktree.server.database import open_database
from hacktree.server.jobrunner import JobRunner, command_of, hold_jobs
from hacktree.server.jobs import Job, State, list_jobs, retry
from hacktree.server.publication import recover_heads
from hacktree.server.watching import Watch

_EPILOG = """\
`hacktree serve` with its API does the jobs. Without it, say `run` from time to time.

Examples:
  hacktree --repo /srv/tree jobs list
  hacktree --repo /srv/tree jobs retry 17
  hacktree --repo /srv/tree jobs run

Exit statuses: 0 done, 1 a job that `run` did failed, 2 no such job, or no archive, 5 the database
is damaged, 6 a server does the jobs of this repository, 8 the system refused."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list jobs, the newest first")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    again = actions.add_parser("retry", help="try a failed job again, now")
    again.add_argument("job", metavar="ID", type=int)
    actions.add_parser("run", help="look what has to be done, do what is due, then end")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    repository = repository_from(args)
    database = open_database(repository)
    if args.action == "retry":
        retry(database, args.job, int(time.time()))
        say(args, f"Job {args.job} is due")
        return 0
    if args.action == "run":
        return _run(repository, args)
    jobs = list_jobs(database)
    if args.json:
        emit_json([asdict(job) for job in jobs])
        return 0
    for job in jobs:
        show(_describe(job))
    return 0


def _run(repository: Repository, args: argparse.Namespace) -> int:
    database = open_database(repository)
    runner = JobRunner(database, command_of(repository.path), time.time)
    with hold_jobs(repository):
        recover_heads(repository)
        Watch(repository, database).look(int(time.time()))
        begun = asyncio.run(runner.run_due())
    waiting = [job for job in list_jobs(database) if job.state is State.WAITING and job.error]
    say(args, f"{begun} jobs done" + (f", {len(waiting)} to be tried again" if waiting else ""))
    return 1 if waiting else 0


def _describe(job: Job) -> str:
    when = format_time(job.ended or job.started or job.created)
    line = f"{job.id:>5}  {job.state:<8} {job.kind} {job.subject}  {when}"
    if job.state is State.WAITING and job.error:
        line += f", again at {format_time(job.due)}"
    if job.error:
        line += f"\n       {job.error.strip().splitlines()[-1]}"
    return line
