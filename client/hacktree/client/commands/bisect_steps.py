"""The steps of `hacktree bisect` that a person takes: start, answers, next, undo, status, reset."""

import argparse
import secrets
import time
from pathlib import Path

from hacktree.client.bisect.answering import answer, require_same, undo
from hacktree.client.bisect.core.model import Options, Session, Terms, Verdict, Verify
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.driver import (
    Machine,
    advance,
    begin,
    leave_old_end,
    refuse_second,
)
from hacktree.client.bisect.ending import drop, end
from hacktree.client.bisect.farm.forecast import Orders, describe_orders, forecast
from hacktree.client.bisect.farm.known import Known, keep_known, kept_hints, priors_for
from hacktree.client.bisect.farm.lines import branch_of_names, parse_name
from hacktree.client.bisect.farm.reading import read_ends, read_judged, read_verdicts
from hacktree.client.bisect.farm.transfers import Transfers
from hacktree.client.bisect.holding import describe_held, read_held
from hacktree.client.bisect.store import (
    Ahead,
    Saved,
    find_bisection,
    hold_bisection,
    read_bisection,
)
from hacktree.client.commands.bisect_documents import status_document
from hacktree.client.commands.bisect_output import (
    ShownSteps,
    count,
    describe_build,
    show_narrowed,
    show_standing,
    show_status,
)
from hacktree.client.pace import check_rate
from hacktree.client.remote import Remote, choose_remote
from hacktree.client.sysroot import Sysroot, open_sysroot, prepare_sysroot
from hacktree.client.target import Steps, Wanted
from hacktree.common.cli.output import emit_json, say
from hacktree.common.errors import CorruptError, HacktreeError, UserError
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.config import format_size


def machine_of(args: argparse.Namespace) -> Machine:
    """The sysroot that the command is about, with output for a person."""
    return machine_in(args, open_sysroot(Path(args.sysroot)))


def machine_in(args: argparse.Namespace, sysroot: Sysroot) -> Machine:
    """As `machine_of`, where the sysroot is open already."""
    return Machine(sysroot, Transfers(sysroot.repository), ShownSteps(args))


def start(args: argparse.Namespace) -> int:
    """Read the line, write the session down, bring the first build."""
    sysroot = prepare_sysroot(args.sysroot)
    machine = machine_in(args, sysroot)
    transfers = machine.transfers
    if not args.dry_run:
        refuse_second(sysroot)
    session, known = _plan(machine, args)
    if args.dry_run:
        more = _show_plan(args, session, transfers)
        if args.json:
            document = status_document(sysroot, Saved(session), verbose=args.verbose)
            emit_json({**document, **more})
        return 0
    with hold_bisection(sysroot):
        more = _show_plan(args, session, transfers)
        old_end = "" if args.no_old_end_first else session.line[0].commit
        saved = begin(machine, session, ahead_of(args), old_end)
        keep_known(sysroot.repository, known)
        if not args.prompt:
            show_standing(args, sysroot, advance(machine, saved), more)
    if args.prompt:
        from hacktree.client.commands.bisect_run import prompt

        return prompt(args)
    return 0


def _plan(machine: Machine, args: argparse.Namespace) -> tuple[Session, Known]:
    sysroot = machine.sysroot
    old, new = (args.bad, args.good) if args.find_fix else (args.good, args.bad)
    if args.qa_endpoints is not None and (old is not None or new is not None):
        raise UserError("--qa-endpoints names both ends", hint="Leave --good and --bad out.")
    if old is None and args.qa_endpoints is None:
        option = "--bad" if args.find_fix else "--good"
        raise UserError(
            f"{option} is missing: which build was so before?",
            hint="Builds are named by id, version, date, BRANCH~N, current or previous.",
        )
    remote_name, branch = _branch(sysroot, args, [name for name in (old, new) if name])
    remote = choose_remote(sysroot.repository, remote_name)
    options = Options(
        terms=Terms(args.term_good, args.term_bad),
        find_fix=args.find_fix,
        votes=args.votes,
        verify=Verify(args.verify),
        strict_midpoint=args.strict_midpoint,
        deploy=not args.no_deploy,
        constant=read_held(sysroot),
    )
    # Unless it tells the ends, what suites said comes last: a server that is silent is met once.
    if old is None:
        known = _read_known(machine, remote, args)
        read = read_judged(
            sysroot.repository, remote, branch, known, args.qa_endpoints, options.new
        )
    else:
        read = read_ends(
            sysroot.repository,
            remote,
            branch,
            parse_name(old, branch, sysroot),
            parse_name(branch if new is None else new, branch, sysroot),
        )
        known = _read_known(machine, remote, args)
    line = read.value.builds
    machine.transfers.received += read.received
    machine.transfers.learn(remote, line, read.value.trees)
    session = Session(
        id=secrets.token_hex(16),
        remote=remote.name,
        created=int(time.time()),
        options=options,
        line=line,
        priors=priors_for(known, line, options.new) if args.qa_priors else {},
    )
    if args.qa_priors and not session.priors:
        machine.listener.say("The farm's suites don't say where to look: nothing is likelier.")
    return session, known


def _read_known(machine: Machine, remote: Remote, args: argparse.Namespace) -> Known:
    """What the farm's suites said; without it a search goes on that did not ask for it."""
    try:
        read = read_verdicts(remote)
    except HacktreeError as error:
        if args.qa_endpoints is not None or args.qa_priors:
            raise
        machine.listener.say(f"What the farm's suites said is not known: {error.message}")
        return {}
    machine.transfers.received += read.received
    return read.value


def _branch(
    sysroot: Sysroot, args: argparse.Namespace, names: list[str]
) -> tuple[str | None, BranchName]:
    """The remote, if one is named, and the branch, which the ends may tell."""
    configured = sysroot.config.remote or None
    if args.branch is None:
        told = branch_of_names(names, sysroot)
        if told is None:
            raise UserError(
                "which branch?", hint="hacktree bisect start BRANCH --good BUILD --bad BUILD"
            )
        return args.remote or configured, told
    wanted = Wanted.parse(args.branch)
    if wanted.which != Steps():
        raise UserError(
            f"{args.branch} is not a branch", hint="Ends are named by --good and --bad."
        )
    branch = parse_branch_name(sysroot.config.full_branch(wanted.branch))
    return args.remote or wanted.remote or configured, branch


def ahead_of(args: argparse.Namespace) -> Ahead:
    """What was said about bringing builds while others are tested."""
    rate = 0 if args.prefetch_rate is None else check_rate(args.prefetch_rate)
    return Ahead(not args.no_prefetch, rate, args.prefetch_space)


def _show_plan(
    args: argparse.Namespace, session: Session, transfers: Transfers
) -> dict[str, object]:
    """What is searched, and what that takes, for a person; returns the latter for programs."""
    state = current_state(session)
    options = session.options
    orders = transfers.orders(state, session.priors)
    first = not args.no_old_end_first
    if orders is None:
        left = forecast(state, transfers.trees, transfers.held(), transfers.edges, session.priors)
    else:
        left = orders.first if first else orders.later
    line = session.line
    say(args, f"{options.terms.word(options.old):<5} {describe_build(line[0])}")
    say(args, f"{options.terms.word(options.new):<5} {describe_build(line[-1])}")
    suspects, tests = count(len(state.suspects), "build"), count(left.most_tests, "test")
    say(
        args,
        f"Searching {suspects}: up to {tests}, about {format_size(left.bytes)} to bring, "
        f"up to {format_size(left.most_bytes)}",
    )
    if orders is not None:
        if first:
            say(args, describe_orders(orders, format_size))
        else:
            with_it = format_size(orders.first.bytes)
            say(args, f"The old end is not brought first; with it about {with_it} in all")
    if note := transfers.take_note():
        say(args, f"note: {note}")
    say(args, f"Held constant: {describe_held(options.constant)}")
    document = {
        "tests": left.most_tests,
        "bytes": left.bytes,
        "most-bytes": left.most_bytes,
        "old-end": None if orders is None else _orders_document(orders, first=first),
    }
    return {"forecast": document}


def _orders_document(orders: Orders, *, first: bool) -> dict[str, object]:
    return {
        "brought-first": first,
        "bytes": orders.cost,
        "search-bytes-first": orders.first.bytes,
        "search-bytes-later": orders.later.bytes,
    }


def take(args: argparse.Namespace) -> int:
    """good, bad, skip, answer: take the verdict, then go on."""
    machine = machine_of(args)
    seen = read_bisection(machine.sysroot)
    with hold_bisection(machine.sysroot):
        saved = read_bisection(machine.sysroot)
        if not args.builds:
            require_same(seen, saved)
        verdict = _verdict(args, saved)
        saved = answer(machine, saved, verdict, args.builds, args.note)
        show_narrowed(args, saved)
        show_standing(args, machine.sysroot, advance(machine, saved))
    return 0


def _verdict(args: argparse.Namespace, saved: Saved) -> Verdict:
    if args.action != "answer":
        return Verdict(args.action)
    terms = saved.session.options.terms
    verdict = terms.parse(args.word)
    if verdict is None:
        raise UserError(f"{args.word!r} is no answer", hint=f"{terms.good}, {terms.bad} or skip.")
    return verdict


def go_on(args: argparse.Namespace) -> int:
    """next: go on where the bisection was cut off, or had to stop."""
    machine = machine_of(args)
    with hold_bisection(machine.sysroot):
        saved = read_bisection(machine.sysroot)
        if args.no_old_end_first:
            saved = leave_old_end(machine, saved)
        show_standing(
            args, machine.sysroot, advance(machine, saved, accept_changes=args.accept_changes)
        )
    return 0


def take_back(args: argparse.Namespace) -> int:
    """undo: take the last answer back, then go on from there."""
    machine = machine_of(args)
    seen = read_bisection(machine.sysroot)
    with hold_bisection(machine.sysroot):
        saved = read_bisection(machine.sysroot)
        require_same(seen, saved)
        saved = undo(machine, saved)
        show_narrowed(args, saved)
        show_standing(args, machine.sysroot, advance(machine, saved))
    return 0


def status(args: argparse.Namespace) -> int:
    """How the search stands; changes nothing."""
    sysroot = open_sysroot(Path(args.sysroot))
    saved = read_bisection(sysroot)
    hints = kept_hints(sysroot.repository, saved.session)
    show_status(args, sysroot, saved, hints)
    return 0


def reset(args: argparse.Namespace) -> int:
    """End the bisection, and go back to the root that was live."""
    machine = machine_of(args)
    with hold_bisection(machine.sysroot):
        try:
            saved = find_bisection(machine.sysroot)
        except CorruptError:
            if not args.force:
                raise
            drop(machine)
            _show_nothing(args, "the damaged session is dropped; `hacktree rollback` swaps roots")
            return 0
        if saved is None:
            _show_nothing(args, "no bisection is under way")
            return 0
        swapped = end(machine)
    if args.json:
        emit_json({"id": saved.session.id, "swapped": swapped, "root": saved.local.started or None})
    elif swapped:
        say(args, f"{saved.local.started} is live again; the bisection is over")
    else:
        say(
            args, f"the bisection is over after {count(current_state(saved.session).tests, 'test')}"
        )
    return 0


def _show_nothing(args: argparse.Namespace, line: str) -> None:
    """After a reset that knows of no session."""
    if args.json:
        emit_json({"id": None, "swapped": False, "root": None})
    else:
        say(args, line)
