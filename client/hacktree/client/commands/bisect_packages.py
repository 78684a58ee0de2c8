"""`hacktree bisect packages`: which package broke it."""

import argparse
import os
import sys
from collections.abc import Sequence
from math import ceil, log2
from pathlib import Path

import msgspec

from hacktree.client.bisect.components.composing import Ends, take_apart
from hacktree.client.bisect.components.ends import Pair, found_ends, named_ends
from hacktree.client.bisect.components.planning import REST, Component
from hacktree.client.bisect.components.saved import (
    Question,
    Saved,
    find_search,
    hold_search,
    pin,
    remove_search,
    unpin,
    write_search,
)
from hacktree.client.bisect.components.searching import Found, Search
from hacktree.client.bisect.components.testing import RootTester
from hacktree.client.bisect.holding import read_held
from hacktree.client.commands.bisect_output import ShownSteps, count
from hacktree.client.deploy import ArchitecturePolicy, DeployOptions
from hacktree.client.entering.person import requested_person
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.output import emit_json, say, show, tell
from hacktree.common.errors import CorruptError, HacktreeError, UserError
from hacktree.common.objects.ids import parse_object_id

_SHOWN = 8
_STDERR = 2


class OtherSearchError(UserError):
    """A search for something else is not finished."""


def run(args: argparse.Namespace) -> int:
    """Search; returns the exit status."""
    sysroot = open_sysroot(Path(args.sysroot))
    with hold_search(sysroot):
        if args.forget:
            _forget(args, sysroot)
            if args.good is None:
                return 0
        pair = _pair(args, sysroot)
        if args.dry_run:
            pair.bring(sysroot, ShownSteps(args).pulling)
            _show_plan(args, take_apart(sysroot.repository, pair.good, pair.bad))
            return 0
        found = _search(args, sysroot, pair)
    if args.json:
        emit_json(_document(found))
    else:
        _show_found(found)
    return 0


def _pair(args: argparse.Namespace, sysroot: Sysroot) -> Pair:
    if args.good is None:
        return found_ends(sysroot)
    if args.bad is None:
        raise UserError("name the bad build, too", hint="hacktree bisect packages GOOD BAD")
    return named_ends(sysroot, args.good, args.bad)


def _search(args: argparse.Namespace, sysroot: Sysroot, pair: Pair) -> Found:
    tester = _tester(args, sysroot)
    if not tester.command:
        raise UserError("there is nothing to run", hint="The test comes last: --run CMD [ARG ...]")
    question = Question(
        pair.good.hex(),
        pair.bad.hex(),
        tester.command,
        tester.limit or 0.0,
        "" if tester.person is None else tester.person.name,
        read_held(sysroot),
    )
    saved = _continue(find_search(sysroot), question)
    pin(sysroot, "good", pair.good)
    pin(sysroot, "bad", pair.bad)
    write_search(sysroot, saved)
    pair.bring(sysroot, ShownSteps(args).pulling)
    try:
        ends = take_apart(sysroot.repository, pair.good, pair.bad)
    except HacktreeError:
        # These two can't be searched here: nothing of them stays.
        if saved == Saved(question):
            _forget(args, sysroot)
        raise
    say(args, _summary(ends))
    if saved.answers:
        say(args, f"known from before: {count(len(saved.answers), 'test')}")

    def tell(line: str) -> None:
        say(args, line)
        sys.stdout.flush()

    search = Search(ends, tester, saved, tell)
    search.clear()
    return search.run()


def _continue(saved: Saved | None, question: Question) -> Saved:
    """What is known of the same question; raises `OtherSearchError` for another that is open."""
    if saved is not None and saved.question == question:
        return msgspec.structs.replace(saved, finished=False)
    if saved is not None and saved.answers and not saved.finished:
        other = saved.question
        raise OtherSearchError(
            f"a search between {other.good[:12]} and {other.bad[:12]} is not finished: "
            f"{count(len(saved.answers), 'test')} of {' '.join(other.command)}",
            hint="The same arguments go on with it, with this machine's scripts, extensions and "
            "layers as they were; --forget drops it.",
        )
    if saved is not None:
        # What a killed test left is still to be removed.
        return Saved(question, testing=saved.testing, spared=saved.spared)
    return Saved(question)


def _forget(args: argparse.Namespace, sysroot: Sysroot) -> None:
    try:
        saved = find_search(sysroot)
    except CorruptError:
        # That is what it is there for.
        saved = None
    if saved is not None and saved.testing:
        commit = parse_object_id(saved.testing)
        _tester(args, sysroot).remove_roots(commit, saved.spared)
    remove_search(sysroot)
    unpin(sysroot, "mixture", "good", "bad")


def _tester(args: argparse.Namespace, sysroot: Sysroot) -> RootTester:
    command = (*args.run, *args.command)
    if args.host and args.user:
        raise UserError("--user is for a command in the root", hint="Leave out --host or --user.")
    person = None if args.host else requested_person(args.user, os.environ)
    policy = (
        ArchitecturePolicy.ALLOW_OTHER
        if args.allow_architecture
        else ArchitecturePolicy.REFUSE_OTHER
    )
    options = DeployOptions(architecture=policy)

    def report(line: str) -> None:
        if args.verbose:
            tell(f"  {line}")

    output = _STDERR if args.json else None
    return RootTester(sysroot, command, person, args.timeout, options, report, output)


def _summary(ends: Ends) -> str:
    components = ends.plan.components
    packages = sum(len(one.names - {REST}) for one in components)
    tests = ceil(log2(len(components))) + 3 if len(components) > 1 else 2
    return (
        f"{packages} packages differ, {len(components)} of them or groups of them by themselves: "
        f"about {tests} tests"
    ) + (f"\n{ends.form.caveat}" if ends.form.caveat else "")


def _show_plan(args: argparse.Namespace, ends: Ends) -> None:
    components = ends.plan.components
    if args.json:
        emit_json(
            [
                {**_component(one), "needs": sorted(one.needs), "paths": len(one.changes)}
                for one in components
            ]
        )
        return
    say(args, _summary(ends))
    for number, one in enumerate(components):
        needs = f", needs {_numbers(one.needs)}" if one.needs else ""
        show(f"{number:4} {_describe(one)}: {count(len(one.changes), 'path')}{needs}")


def _numbers(numbers: frozenset[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)[:_SHOWN]))
    return shown if len(numbers) <= _SHOWN else f"{shown} and {len(numbers) - _SHOWN} more"


def _show_found(found: Found) -> None:
    show("these packages break it:" if len(found.culprits) > 1 else "this breaks it:")
    _show_components(found.culprits)
    if len(found.culprits) > 1:
        show("without any one of them it works")
    if found.doubtful:
        show("of these it could not be tested whether they are needed:")
        _show_components(found.doubtful)
    if found.brought:
        show("they need these, which by themselves break nothing:")
        _show_components(found.brought)
    seconds = sum(answer.seconds for answer in found.answers)
    show(f"{count(len(found.answers), 'test')}, {seconds:.0f} seconds of testing")


def _show_components(components: Sequence[Component]) -> None:
    for one in components:
        for name, old, new in one.packages:
            show(f"  {_package(name, old, new)}")


def _describe(one: Component) -> str:
    packages = [_package(*package) for package in one.packages]
    more = len(packages) - _SHOWN
    return ", ".join(packages[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _package(name: str, old: str, new: str) -> str:
    if name == REST:
        return name
    if old == new:
        return f"{name} {old} (other files)"
    return f"{name} {old or 'absent'} -> {new or 'removed'}"


def _component(one: Component) -> dict[str, object]:
    return {
        "packages": [
            {"name": name, "old": old or None, "new": new or None}
            for name, old, new in one.packages
        ]
    }


def _document(found: Found) -> dict[str, object]:
    return {
        "culprits": [_component(one) for one in found.culprits],
        "brought": [_component(one) for one in found.brought],
        "doubtful": [_component(one) for one in found.doubtful],
        "tests": [
            {
                "tree": answer.tree,
                "outcome": answer.outcome.value,
                "new": answer.new,
                "seconds": answer.seconds,
                "note": answer.note,
            }
            for answer in found.answers
        ],
    }
