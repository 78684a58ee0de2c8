"""`hacktree lease`: builds that are kept for bisections."""

import argparse
import os
import textwrap
import time

import msgspec

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time, say, show
from hacktree.common.repository.packing import Encoders, make_pack
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database, open_database
from hacktree.server.jobs import Kind, enqueue
from hacktree.server.leasing.leases import (
    end_lease,
    list_leases,
    missing,
    settle_leases,
)
from hacktree.server.leasing.messages import lease_answer
from hacktree.server.leasing.packs import missing_pack
from hacktree.server.leasing.records import RangeLease
from hacktree.server.tokens import list_tokens

_LOWEST_PRIORITY = 19


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = textwrap.dedent("""\
        A bisection leases the builds between its two ends from the farm, so that no prune takes
        them meanwhile. It renews the lease at each step and gives it back in the end; a lease that
        nobody renews ends after a week. Its token needs lease:BRANCH.""")
    parser.epilog = textwrap.dedent("""\
        `pack` makes one pack that bisections of the range would take and that is missing, and asks
        for the next as a job; a server does so by itself, when it has nothing else to do.

        Examples:
          hacktree --repo /srv/hacktree lease list
          hacktree --repo /srv/hacktree lease end 3f9c21ab7d5e4f60a1b2c3d4e5f60718

        Exit statuses: 0 done, 2 wrong usage, no such lease or no archive, 5 the database is
        damaged, 6 it is in use, or packs are being made, 7 no space, 8 the system refused.""")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the leases that last, the oldest first")
    end = actions.add_parser("end", help="let prune have the builds again")
    pack = actions.add_parser("pack", help="make the next pack that a leased range lacks")
    for action in (end, pack):
        action.add_argument("lease", metavar="LEASE", help="as `lease list` shows it")
    for action in (listing, end, pack):
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    repository = repository_from(args)
    database = open_database(repository)
    now = int(time.time())
    settle_leases(repository, database, now)
    leases = list_leases(database, now)
    if args.action == "list":
        _list(database, leases, args, now)
        return 0
    lease = next((one for one in leases if one.id == args.lease), None)
    if args.action == "pack":
        _pack(repository, database, lease, args)
        return 0
    if lease is None:
        raise missing(args.lease)
    end_lease(repository, database, lease.id)
    if args.json:
        emit_json({"lease": lease.id, "builds": len(lease.builds)})
    else:
        say(args, f"lease {lease.id} has ended: prune may take its {len(lease.builds)} builds")
    return 0


def _list(database: Database, leases: list[RangeLease], args: argparse.Namespace, now: int) -> None:
    labels = {token.id: token.label for token in list_tokens(database)}
    if args.json:
        emit_json(
            [
                {**msgspec.to_builtins(lease_answer(one, now)), "label": labels.get(one.token, "")}
                for one in leases
            ]
        )
        return
    for one in leases:
        label = f" ({labels[one.token]})" if labels.get(one.token) else ""
        show(f"{one.id}  {one.branch}, {len(one.builds)} builds, token {one.token}{label}")
        show(
            f"  {one.builds[0].hex()[:16]} … {one.builds[-1].hex()[:16]}, "
            f"since {format_time(one.created)}, until {format_time(one.expires)}"
        )
    if not leases:
        say(args, "no leases: bisections with a token for lease:BRANCH make them")


def _pack(
    repository: Repository, database: Database, lease: RangeLease | None, args: argparse.Namespace
) -> None:
    """A lease that has ended wants no packs: its job is done, whoever asked for it."""
    pair = None if lease is None else missing_pack(repository, lease.builds)
    if lease is None or pair is None:
        why = "the lease has ended" if lease is None else "every pack is there"
        if args.json:
            emit_json(None)
        else:
            say(args, f"nothing to do: {why}")
        return
    os.nice(_LOWEST_PRIORITY)
    edge = make_pack(repository, *pair, Encoders(os.cpu_count() or 1)).edge
    # One at a time: packs of new builds must not wait for all of these.
    enqueue(database, Kind.LEASES, lease.id, int(time.time()))
    if args.json:
        emit_json({"pack": edge.pack.hex(), "from": pair[0].hex(), "to": pair[1].hex()})
    else:
        say(args, f"pack {edge.pack.hex()[:16]} is made")
