"""`hacktree pull`, also `hacktree-pull`: bring a build here and deploy it."""

import argparse
import sys
from typing import NoReturn

from hacktree.common.delta.prefer import Prefer

_EPILOG = """\
BRANCH is a branch's name; BRANCH~2 is the build two before its newest; BRANCH@1f3a9c is the build
with that id and BRANCH@2026-11-23 the newest of that day or before. REMOTE: names the remote where
there are several. With --repo, or --pull-only, nothing is deployed.

Examples:
  hacktree-pull fastqa
  hacktree-pull --dry-run fastqa
  hacktree pull --pull-only farm:builds~3
  hacktree --repo /srv/mirror pull builds --reference /srv/other

Exit statuses: 0 done, 2 wrong usage, no such branch or build, 4 the remote can't be reached or is
wrong, 5 local data is damaged, 6 somebody holds the lock, 7 no space, 8 the system refused,
130 interrupted. An interrupted pull continues when it is run again.
"""

_MAX_CONNECTIONS = 64


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.epilog = _EPILOG
    parser.add_argument("wanted", metavar="[REMOTE:]BRANCH[~N|@COMMIT]", help="what to pull")
    parser.add_argument("--remote", metavar="NAME", help="the remote (default: the only one)")
    parser.add_argument("--pull-only", action="store_true", help="don't deploy")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--reference",
        metavar="DIR",
        action="append",
        default=[],
        help="a repository on this machine to take objects from (may be repeated)",
    )
    parser.add_argument(
        "--connections", metavar="N", type=_connections, default=12, help="at a time (default: 12)"
    )
    parser.add_argument(
        "--prefer",
        choices=[prefer.value for prefer in Prefer],
        default=Prefer.AUTO.value,
        help="what delta packs are to spare: bytes, time, or both as measured (default: auto)",
    )
    parser.add_argument("--no-deltas", action="store_true", help="fetch whole objects only")
    parser.add_argument(
        "--json-progress", action="store_true", help="one JSON document a line, as it goes"
    )


def _connections(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MAX_CONNECTIONS:
        raise ValueError
    return number


def console() -> NoReturn:
    """The console script `hacktree-pull`."""
    from hacktree.common.cli import main

    main.console(["pull", *sys.argv[1:]])


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    # What a pull needs takes a quarter of a second to import: help and mistakes do without.
    from hacktree.client.commands.pull_place import find_place
    from hacktree.client.network_process import fork_network_process
    from hacktree.client.waiting import LOGGER
    from hacktree.common.cli.notices import show_notices

    show_notices(args, LOGGER)
    place = find_place(args)
    network = None
    if place.remote.local_path is None:
        # Now: it imports what reads the network while this process imports the rest.
        network = fork_network_process(place.remote, args.connections)
    from hacktree.client.commands.pull_actions import execute

    return execute(args, place, network)
