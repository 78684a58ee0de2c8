"""Testing build after build with a command, until the search has ended."""

import os
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from hacktree.client.bisect.answering import answer, previous_verdict
from hacktree.client.bisect.core.model import Verdict
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.driver import (
    CandidateFailedError,
    Finished,
    Machine,
    Ready,
    advance,
)
from hacktree.client.bisect.farm.fetching import BuildGoneError
from hacktree.client.bisect.farm.reading import require_head
from hacktree.client.bisect.running import (
    CommandRun,
    Finding,
    command_environment,
    on_host,
    run_command,
)
from hacktree.client.bisect.store import Saved, read_bisection
from hacktree.client.entering.enter import Request, enter_root
from hacktree.client.entering.filesystem import Writes
from hacktree.client.entering.person import Person
from hacktree.client.remote import load_remote
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.names import parse_branch_name

_VERDICTS = {
    Finding.PASSED: Verdict.GOOD,
    Finding.FAILED: Verdict.BAD,
    Finding.SKIPPED: Verdict.SKIP,
}

MOST_FAILED: Final = 3
"""Builds that can't be deployed, one after another, end a run."""


class Check(msgspec.Struct, frozen=True):
    """A command that tells good builds from bad ones by its exit status, as `judge` says.

    `limit` in seconds, or None. As `person` in the build's root, or, if that is None, on this
    machine, as this process. `output`: a descriptor for what it prints, None: where ours goes.
    """

    command: Sequence[str]
    limit: float | None = None
    person: Person | None = None
    output: int | None = None


def check_all(
    machine: Machine,
    saved: Saved,
    check: Check,
    tested: Callable[[Ready, Verdict, CommandRun, Saved], None],
) -> Finished:
    """Bring, deploy and test builds until the search has ended; `tested` is told each verdict.

    A build that is gone or can't be deployed is skipped, unless it is the third one after another
    that can't be deployed, or the remote doesn't even serve the branch's head: then it is hardly
    the build's fault. Raises `CandidateFailedError`,
    `RunAbortedError`, `CommandMissingError`, and what `advance` raises otherwise: the bisection
    stays as it was before that build.
    """
    failed = 0
    while True:
        try:
            standing = advance(machine, saved)
        except CandidateFailedError as error:
            # That the farm has it no more is not for this machine to mend.
            gone = isinstance(error.__cause__, BuildGoneError)
            failed += not gone
            if failed == MOST_FAILED:
                raise CandidateFailedError(
                    f"{failed} builds one after another can't be deployed: {error.message}",
                    hint="If it is not the builds' fault, mend it and run this again. Answers that "
                    "skip are taken back by `hacktree bisect undo`.",
                ) from error
            machine.listener.say(error.message)
            saved = read_bisection(machine.sysroot)
            if gone:
                _require_farm(machine, saved)
            saved = answer(machine, saved, Verdict.SKIP, note=error.message)
            continue
        failed = 0
        if isinstance(standing, Finished):
            return standing
        run = run_check(machine.sysroot, standing, check)
        verdict = _VERDICTS[run.finding]
        saved = answer(machine, standing.saved, verdict, note=run.describe())
        tested(standing, verdict, run, saved)


def _require_farm(machine: Machine, saved: Saved) -> None:
    """Raise `PeerError` if the remote has nothing else either: its disk is not there, say."""
    repository = machine.sysroot.repository
    branch = current_state(saved.session).line[0].branch
    remote = load_remote(repository, saved.session.remote)
    require_head(repository, remote, parse_branch_name(branch))


def run_check(sysroot: Sysroot, ready: Ready, check: Check) -> CommandRun:
    """Run the command on the build under test."""
    before = previous_verdict(ready.saved.session)
    booted = read_roots(sysroot).running == ready.root
    inside = check.person is not None
    variables = command_environment(
        "/" if inside or booted else str(sysroot.roots / ready.root),
        ready.candidate.commit,
        ready.candidate.branch,
        before.value if before is not None else "",
    )
    if check.person is None or booted:
        return run_command(on_host(check.command, variables), check.limit, output=check.output)
    request = Request(
        tuple(check.command),
        check.person,
        dict(os.environ),
        Writes.THROWN_AWAY,
        variables=variables,
    )
    return run_command(
        lambda: enter_root(sysroot, ready.root, request), check.limit, output=check.output
    )
