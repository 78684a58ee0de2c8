"""`hacktree bisect`: which build of a branch broke it, in few tests and few bytes."""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Final

from hacktree.client.bisect.core.model import MAX_VOTES, Verify
from hacktree.client.bisect.store import Ahead
from hacktree.client.commands import bisect_options, bisect_packages_options
from hacktree.common.errors import UserError
from hacktree.common.repository.config import parse_size

_STEPS: Final = "hacktree.client.commands.bisect_steps"
_RUN: Final = "hacktree.client.commands.bisect_run"
_REPORT: Final = "hacktree.client.commands.bisect_report"
_SHARE: Final = "hacktree.client.commands.bisect_share"
_LOG: Final = "hacktree.client.commands.bisect_log"
_PACKAGES: Final = "hacktree.client.commands.bisect_packages"

_ACTIONS: Final[dict[str, tuple[str, str, str]]] = {
    "start": (_STEPS, "start", "begin: read the builds between two ends, bring the first to test"),
    "good": (_STEPS, "take", "the build under test, or those that are named, are good"),
    "bad": (_STEPS, "take", "they are bad"),
    "skip": (_STEPS, "take", "they can't be tested; A..B is a range"),
    "answer": (_STEPS, "take", "the same with words of your own (--term-good, --term-bad)"),
    "next": (_STEPS, "go_on", "go on where it was cut off or had to stop"),
    "undo": (_STEPS, "take_back", "take the last answer back"),
    "run": (_RUN, "run", "test build after build with a command"),
    "prompt": (_RUN, "prompt", "be asked about each build; single letters are enough"),
    "log": (_LOG, "log", "print it as commands, which can be edited and replayed"),
    "replay": (_LOG, "replay", "begin with what a log says"),
    "packages": (_PACKAGES, "run", "find which package broke it, in roots mixed from two builds"),
    "status": (_STEPS, "status", "show how far it is, and which build is under test"),
    "report": (_REPORT, "report", "show what was found, and what changed in that build"),
    "visualize": (_REPORT, "visualize", "draw the builds and what is known of them"),
    "export": (_SHARE, "export", "write the bisection to a file, for a colleague"),
    "import": (_SHARE, "import_", "go on with a bisection that was exported"),
    "reset": (_STEPS, "reset", "end it, and go back to the root that was live"),
}
"""Module, function and summary of each action."""

_EPILOG: Final = """\
Builds are named by id or its beginning, version, date (2026-11-23), BRANCH~N, current or previous
(roots of this machine). A bisection survives a reboot and a power cut: `status` shows where it is,
`next` goes on. Each build is combined with the same scripts, extensions and layers, and deployed;
with --no-deploy it only gets a root, which `run` and `hacktree enter` use.

Examples:
  hacktree bisect start fastqa --good 47.3 --bad current
  hacktree bisect good
  hacktree bisect bad --note 'black screen after login'
  hacktree bisect skip 3f9c21ab7..7d20aa914
  hacktree bisect prompt
  hacktree bisect start fastqa --good 2026-11-01 --no-deploy --votes 3
  hacktree bisect start builds --qa-endpoints fastqa
  hacktree bisect run --timeout 120 -- /usr/bin/gnome-shell --version
  hacktree bisect run --host -- sh -c 'test -e "$HACKTREE_ROOT/usr/bin/eog"'
  hacktree bisect report --paths 'usr/lib/**'
  hacktree bisect report --html /tmp/report.html
  hacktree bisect export /tmp/session.json
  hacktree bisect log > search.log
  hacktree bisect replay search.log
  hacktree bisect reset

Exit statuses: 0 done, or `run` found the build; 1 the build can't be deployed, or `run` ended
without an answer; 2 wrong usage, no such build, an answer that makes no sense; 4 the remote is at
fault, 5 local data is damaged, 6 another command is at it, 7 no space, 8 the system refused.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = "Find the first bad build of a branch, or the first that is good again."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (_, _, summary) in _ACTIONS.items():
        action = actions.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )
        for option in ("--quiet", "--verbose"):
            action.add_argument(
                option,
                option[1:3],
                action="store_true",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
    _configure_start(actions.choices["start"])
    for name in ("good", "bad", "skip", "answer"):
        _configure_answer(actions.choices[name], name)
    actions.choices["next"].add_argument(
        "--accept-changes",
        action="store_true",
        help="though scripts, extensions or layers are no longer those of the start",
    )
    _configure_order(actions.choices["next"])
    _configure_run(actions.choices["run"])
    bisect_options.configure_report(actions.choices["report"])
    bisect_options.configure_visualize(actions.choices["visualize"])
    bisect_options.configure_export(actions.choices["export"])
    bisect_options.configure_import(actions.choices["import"])
    bisect_options.configure_replay(actions.choices["replay"])
    for name in ("import", "replay"):
        _configure_ahead(actions.choices[name])
    bisect_packages_options.configure(actions.choices["packages"])
    actions.choices["reset"].add_argument(
        "--force", action="store_true", help="drop a session that can't be read, too"
    )


def _configure_start(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "branch",
        metavar="[REMOTE:]BRANCH",
        nargs="?",
        help="the branch (default: that of current, previous or BRANCH~N)",
    )
    action.add_argument("--remote", metavar="NAME", help="the remote (default: the only one)")
    action.add_argument("--good", metavar="BUILD", help="a build that was good")
    action.add_argument("--bad", metavar="BUILD", help="one that is bad (default: the newest)")
    action.add_argument(
        "--qa-endpoints",
        metavar="SUITE",
        help="the ends are the builds between which the farm's SUITE passed and then failed",
    )
    action.add_argument(
        "--qa-priors",
        action="store_true",
        help="test first where the farm's suites passed and then failed",
    )
    action.add_argument(
        "--find-fix",
        action="store_true",
        help="the older end is bad: look for the first good build (default: the newest is good)",
    )
    action.add_argument("--term-good", metavar="WORD", default="good", help="say WORD for good")
    action.add_argument("--term-bad", metavar="WORD", default="bad", help="say WORD for bad")
    action.add_argument(
        "--votes",
        metavar="N",
        type=_votes,
        default=1,
        help="the majority of N tests counts, an odd number (default: 1)",
    )
    action.add_argument(
        "--verify",
        choices=[verify.value for verify in Verify],
        default=Verify.LAST.value,
        help="when to test the two ends themselves (default: last, if the answer rests on one)",
    )
    action.add_argument(
        "--strict-midpoint",
        action="store_true",
        help="test the middle, not the cheapest build that takes no more tests",
    )
    action.add_argument(
        "--no-deploy", action="store_true", help="make roots, but leave the live root as it is"
    )
    _configure_order(action)
    _configure_ahead(action)
    action.add_argument("--prompt", action="store_true", help="go on with `bisect prompt`")
    action.add_argument("--dry-run", "-n", action="store_true", help="only say what is searched")


def _size(text: str) -> int:
    size = parse_size(text)
    if size < 1:
        raise UserError(f"not a size: {text!r}", hint="--no-prefetch brings nothing ahead.")
    return size


def _configure_order(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--no-old-end-first",
        action="store_true",
        help="do not bring the older end before any test, but only if a test needs it",
    )


def _configure_ahead(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--no-prefetch", action="store_true", help="bring no builds while others are tested"
    )
    action.add_argument(
        "--prefetch-rate",
        metavar="SIZE",
        type=_size,
        help="at most so many bytes a second for them, such as 5MB (default: no limit)",
    )
    action.add_argument(
        "--prefetch-space",
        metavar="SIZE",
        type=_size,
        default=Ahead().space,
        help="at most so much disk for them at a time (default: 2GiB)",
    )


def _votes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_VOTES:
        raise UserError(f"not a number of votes: {text!r}", hint=f"An odd one, up to {MAX_VOTES}.")
    return int(text)


def _configure_answer(action: argparse.ArgumentParser, name: str) -> None:
    if name == "answer":
        action.add_argument("word", metavar="WORD")
    shown = "BUILD[..BUILD]" if name == "skip" else "BUILD"
    action.add_argument(
        "builds", metavar=shown, nargs="*", help="other builds than the one under test"
    )
    action.add_argument("--note", metavar="TEXT", default="", help="a line for the log")


def _configure_run(action: argparse.ArgumentParser) -> None:
    action.usage = "hacktree bisect run [-h] [OPTIONS] [--] COMMAND..."
    action.epilog = (
        "The command runs in the build's root, as `hacktree enter --scratch` would run it, or with "
        "--host on this machine. Exit status 0 says good, 125 skip, 1 to 127 bad; 128 and above, "
        "or a signal, stops the run. Past the limit it is ended with all that it started, and the "
        "build is bad. HACKTREE_ROOT, HACKTREE_BUILD, HACKTREE_BRANCH and "
        "HACKTREE_PREVIOUS_VERDICT are in its environment."
    )
    action.add_argument(
        "--timeout", metavar="SECONDS", type=bisect_options.seconds, help="the limit of one test"
    )
    action.add_argument("--host", action="store_true", help="run it on this machine")
    action.add_argument(
        "--unattended",
        action="store_true",
        help="go on by itself after a reboot, by a systemd unit in etc/systemd/system",
    )
    action.add_argument("--user", metavar="NAME", help="as somebody else (as root only)")
    action.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="the test, with its arguments"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if args.repo:
        raise UserError("a bisection needs a sysroot", hint="--sysroot DIR, instead of --repo.")
    if args.command and args.action not in ("run", "packages"):
        raise UserError(
            "only `bisect run` and `packages` take a command", hint="See hacktree bisect --help."
        )
    from hacktree.client.waiting import LOGGER
    from hacktree.common.cli.notices import show_notices

    show_notices(args, LOGGER)
    module, function, _ = _ACTIONS[args.action]
    act: Callable[[argparse.Namespace], int] = getattr(import_module(module), function)
    return act(args)
