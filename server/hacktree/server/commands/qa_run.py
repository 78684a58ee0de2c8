"""`hacktree qa run`: a runner."""

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hacktree.common.cli.connection import read_secret
from hacktree.common.cli.context import repository_from, repository_path
from hacktree.common.cli.output import emit_event, say, warn
from hacktree.common.errors import BusyError, PeerError, UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.config import parse_size
from hacktree.common.repository.repository import Repository
from hacktree.server.database import open_database
from hacktree.server.promotion.connecting import connect, require_local
from hacktree.server.promotion.desk import Assignment, Desk, Idle, LocalDesk
from hacktree.server.promotion.machine.qemu import DEFAULT_SIZE, Size
from hacktree.server.promotion.remote_desk import RemoteDesk
from hacktree.server.promotion.running import Runner, judge_next
from hacktree.server.promotion.sandbox import Confinement, Sandbox
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.status import verdict_as_json
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Verdict


class PullFailedError(PeerError):
    """The build could not be brought to this machine."""


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    # So that a stopped service kills its command, removes its root and gives the build up.
    signal.signal(signal.SIGTERM, _interrupt)
    repository = repository_from(args)
    token = (Path(args.token_file),) if args.token_file else ()
    hidden = (repository.path, *token)
    confinement = Confinement(Sandbox(args.sandbox), hidden, _size(args))
    confinement.require()
    open_desk = _desk(args, repository)
    fetch = (lambda suite, build: _pull(args, suite, build)) if args.server else _here
    machine = args.machine or socket.gethostname()
    last = ""
    while True:
        try:
            runner = Runner(open_desk(), repository, fetch, machine, confinement)
            done = judge_next(runner, args.suite, lambda claimed: _tell_claim(args, claimed))
        except (PeerError, BusyError) as error:
            if not args.watch:
                raise
            warn(error.message)
            time.sleep(args.interval)
            continue
        if isinstance(done, Verdict):
            _tell_verdict(args, done)
        elif done.reason != last or not args.watch:
            _tell_idle(args, done)
        last = done.reason if isinstance(done, Idle) else ""
        if not args.watch:
            return 0
        if isinstance(done, Idle):
            time.sleep(args.interval)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _size(args: argparse.Namespace) -> Size:
    given = (args.memory, args.processors)
    if args.sandbox != Sandbox.VM and given != (None, None):
        raise UserError("--memory and --processors go with --sandbox vm")
    memory = DEFAULT_SIZE.memory if args.memory is None else parse_size(args.memory)
    processors = DEFAULT_SIZE.processors if args.processors is None else args.processors
    return Size(memory, processors)


def _desk(args: argparse.Namespace, repository: Repository) -> Callable[[], Desk]:
    """Asked for at every turn: `server.toml` is edited while this runs."""
    if args.server is None:
        require_local(args, "token_file", "remote", "tls_ca")
        database = open_database(repository)
        return lambda: LocalDesk(repository, database, read_suites(repository), time.time)
    remote = RemoteDesk(
        connect(args.server, read_secret(args.token_file, args.server), args.tls_ca)
    )
    return lambda: remote


def _here(suite: Suite, build: ObjectId) -> None:
    """The farm's own repository has its builds."""


def _pull(args: argparse.Namespace, suite: Suite, build: ObjectId) -> None:
    """Pull as a tester would, with a tester's checks: what is tested is what testers will get."""
    remote = ["--remote", args.remote] if args.remote else []
    program = "import sys; from hacktree.common.cli.main import main; sys.exit(main())"
    wanted = f"{suite.source}@{build.hex()}"
    done = subprocess.run(
        [
            sys.executable, "-c", program, "--repo", str(repository_path(args)), "--quiet",
            "pull", "--pull-only", *remote, wanted,
        ],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise PullFailedError(
            f"build {build.hex()[:12]} can't be pulled: see above",
            hint="Does --repo have a remote, added with `hacktree remote add`?",
        )


def _tell_claim(args: argparse.Namespace, claimed: Assignment) -> None:
    say(
        args,
        f"{claimed.suite.target}: testing build {claimed.sequence} ({claimed.build.hex()[:12]}) "
        f"of {claimed.suite.source}",
    )
    sys.stdout.flush()


def _tell_verdict(args: argparse.Namespace, verdict: Verdict) -> None:
    if args.json:
        emit_event(verdict_as_json(verdict))
        return
    why = f" ({verdict.finding.reason})" if verdict.finding.reason else ""
    say(
        args,
        f"{verdict.suite}: {verdict.build.hex()[:12]} {verdict.outcome}{why} after "
        f"{verdict.duration:.1f} s, verdict {verdict.number}",
    )
    sys.stdout.flush()


def _tell_idle(args: argparse.Namespace, idle: Idle) -> None:
    if args.json:
        emit_event({"idle": idle.reason})
    say(args, f"{args.suite}: nothing to test: {idle.reason}")
    sys.stdout.flush()
