"""`hacktree delta`: makes packs of deltas between builds and looks into them.

One module for each action; this one only finds the action that was asked for.
"""

import argparse
import importlib
from types import ModuleType
from typing import Final

_PACKAGE: Final = "hacktree.common.commands"
_ELSEWHERE: Final = {"apply": "hacktree.client.commands"}
"""Actions that live in another portion, found by name as the driver finds commands."""

ACTIONS: Final = {
    "generate": "Make the packs that lead from older builds to newer ones",
    "list": "List the published packs",
    "show": "Show what is in a pack",
    "verify": "Decode every entry of a pack and compare",
    "prune": "Retire packs whose builds are gone, and delete those retired long ago",
    "export": "Write a bundle that brings a build to a machine without a network",
    "apply": "Bring the build in a bundle into this machine's repository",
    "explain": "Say what the delta between two files costs, and why",
}

_EPILOG: Final = """\
A pack holds what one build needs and another lacks, mostly as deltas. `hacktree delta ACTION
--help` explains an action and its exit statuses.

Examples:
  hacktree --repo /srv/tree delta generate builds
  hacktree --repo /srv/tree delta list
  hacktree delta explain old/libc.so.6 new/libc.so.6

Exit statuses: 0 done, 1 failed, 2 wrong usage or no such revision, 5 a pack or an object is
damaged, 6 somebody holds the lock, 7 no space, 8 the system refused."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in ACTIONS.items():
        action = actions.add_parser(
            name,
            help=summary[0].lower() + summary[1:],
            description=summary + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _module(name).configure(action)
        _accept_global_options(action)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    status: int = _module(args.action).run(args)
    return status


def _module(action: str) -> ModuleType:
    return importlib.import_module(f"{_ELSEWHERE.get(action, _PACKAGE)}.delta_{action}")


def _accept_global_options(parser: argparse.ArgumentParser) -> None:
    """The driver's options behind the action too; absent, they leave alone what stood before."""
    options = parser.add_argument_group("global options")
    options.add_argument("--repo", metavar="DIR", default=argparse.SUPPRESS, help="the repository")
    for flags, meaning in (
        (("--json",), "print JSON"),
        (("--quiet", "-q"), "print only what was asked for"),
        (("--verbose", "-v"), "print more"),
    ):
        options.add_argument(*flags, action="store_true", default=argparse.SUPPRESS, help=meaning)
