"""`hacktree bisect run` and `prompt`: builds are tested one after the other by one command."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hacktree.client.bisect.answering import answer, undo
from hacktree.client.bisect.core.model import Verdict
from hacktree.client.bisect.core.state import Found
from hacktree.client.bisect.driver import (
    CandidateFailedError,
    Finished,
    Machine,
    Ready,
    advance,
)
from hacktree.client.bisect.farm.known import kept_hints
from hacktree.client.bisect.loop import Check, check_all
from hacktree.client.bisect.prompt import Choice, explanation, parse_reply, question
from hacktree.client.bisect.running import CommandRun, fork
from hacktree.client.bisect.store import Saved, hold_bisection, read_bisection
from hacktree.client.bisect.unattended import install_unit, remove_unit, render_unit
from hacktree.client.commands.bisect_output import (
    describe_build,
    show_narrowed,
    show_standing,
    show_status,
)
from hacktree.client.commands.bisect_steps import machine_of
from hacktree.client.entering.enter import Request, enter_root
from hacktree.client.entering.filesystem import Writes
from hacktree.client.entering.person import invoking_person, requested_person
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.output import complain, say, show
from hacktree.common.errors import HacktreeError, UserError

_STDERR = 2


def run(args: argparse.Namespace) -> int:
    """Test build after build with the command; 0 if the first build was found."""
    command = _command(args)
    if args.host and args.user:
        raise UserError("--user is for a command in the root", hint="Leave out --host or --user.")
    person = None if args.host else requested_person(args.user, os.environ)
    machine = machine_of(args)
    check = Check(command, args.timeout, person, _STDERR if args.json else None)

    def tested(ready: Ready, verdict: Verdict, run: CommandRun, saved: Saved) -> None:
        word = saved.session.options.terms.word(verdict)
        say(args, f"{describe_build(ready.candidate)} is {word}: {run.describe()}")
        show_narrowed(args, saved)
        sys.stdout.flush()

    sysroot = machine.sysroot
    with hold_bisection(sysroot):
        saved = read_bisection(sysroot)
        if args.unattended:
            path = install_unit(sysroot, _unit(sysroot, args, command))
            # No other machine's systemd looks there.
            whose = (
                "" if sysroot.path == Path("/") else f" of the machine whose / is {sysroot.path}"
            )
            say(args, f"{path} goes on after a reboot{whose}")
        finished = check_all(machine, saved, check, tested)
        remove_unit(sysroot)
    show_standing(args, sysroot, finished)
    return 0 if isinstance(finished.outcome, Found) else 1


def _command(args: argparse.Namespace) -> tuple[str, ...]:
    """The test; the driver cut the words at the first `--`, which may be the test's own."""
    if not args.words and not args.command:
        raise UserError("no command", hint="hacktree bisect run COMMAND [WORD...]")
    if args.words and args.command:
        return (*args.words, "--", *args.command)
    return (*args.words, *args.command)


def _unit(sysroot: Sysroot, args: argparse.Namespace, command: Sequence[str]) -> str:
    """The unit that runs what this process runs."""
    program = os.path.abspath(sys.argv[0])
    words = [program] if os.access(program, os.X_OK) else [sys.executable, program]
    words += ["--sysroot", str(sysroot.path), "bisect", "run", "--unattended"]
    if args.timeout is not None:
        words += ["--timeout", f"{args.timeout:g}"]
    if args.host:
        words.append("--host")
    if args.user:
        words += ["--user", args.user]
    return render_unit(sysroot, [*words, "--", *command], os.getcwd())


def prompt(args: argparse.Namespace) -> int:
    """Ask a person about each build until the search has ended, or they leave."""
    machine = machine_of(args)
    with hold_bisection(machine.sysroot):
        while True:
            standing = _advance(machine, args)
            if isinstance(standing, Finished):
                show_standing(args, machine.sysroot, standing)
                return 0
            if not _ask(machine, standing, args):
                return 0


def _advance(machine: Machine, args: argparse.Namespace) -> Ready | Finished | None:
    """The next build, or None where it can't be had: it may be skipped."""
    try:
        standing = advance(machine, read_bisection(machine.sysroot))
    except CandidateFailedError as error:
        complain(error.message, error.hint)
        return None
    if isinstance(standing, Ready):
        show_standing(args, machine.sysroot, standing)
    return standing


def _ask(machine: Machine, ready: Ready | None, args: argparse.Namespace) -> bool:
    """One answer that changes something; False: they leave."""
    while True:
        saved = read_bisection(machine.sysroot)
        terms = saved.session.options.terms
        line = _read_line(question(terms))
        reply = None if line is None else parse_reply(line, terms)
        if line is None or (reply is not None and reply.choice is Choice.QUIT):
            say(args, "The bisection stays as it is; `hacktree bisect prompt` goes on.")
            return False
        try:
            if reply is None or reply.choice is Choice.HELP:
                show(explanation(terms))
            elif reply.verdict is not None:
                show_narrowed(args, answer(machine, saved, reply.verdict, (), reply.note))
                return True
            elif reply.choice is Choice.UNDO:
                show_narrowed(args, undo(machine, saved))
                return True
            elif reply.choice is Choice.STATUS:
                hints = kept_hints(machine.sysroot.repository, saved.session)
                show_status(args, machine.sysroot, saved, hints)
            elif ready is not None:
                _enter(machine, ready)
            else:
                show("there is no root to enter: skip the build, or leave and try again")
        except HacktreeError as error:
            complain(error.message, error.hint)


def _read_line(text: str) -> str | None:
    show(text, end="")
    line = sys.stdin.readline()
    if not line:
        show("")
    return line or None


def _enter(machine: Machine, ready: Ready) -> None:
    """A shell in the root; what it writes is thrown away.

    In a process of its own: without root, one that has entered can start no others afterwards.
    """
    request = Request((), invoking_person(os.environ), dict(os.environ), Writes.THROWN_AWAY)
    sys.stdout.flush()
    child = fork()
    if child == 0:
        try:
            enter_root(machine.sysroot, ready.root, request)
        except HacktreeError as error:
            complain(error.message, error.hint)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
