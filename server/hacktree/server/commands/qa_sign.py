"""`hacktree qa sign`: the signer."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping

from hacktree.common.cli.connection import read_secret, state_directory
from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_event, say, warn
from hacktree.common.errors import BusyError, PeerError, UserError
from hacktree.common.objects.names import parse_branch_name
from hacktree.server.database import open_database
from hacktree.server.promotion.connecting import connect, given_key, require_local, trust_farm
from hacktree.server.promotion.decision import Stay
from hacktree.server.promotion.promoting import Farm, Promoted, promote_next
from hacktree.server.promotion.remote_signing import RemoteSigner
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.suites import find_suite

_Turn = Callable[[int], Promoted | Stay]


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    turn = _here(args) if args.server is None else _elsewhere(args)
    last = ""
    while True:
        try:
            done = turn(int(time.time()))
        except (BusyError, PeerError) as error:
            if not args.watch:
                raise
            if error.message != last:
                warn(error.message)
            last = error.message
            time.sleep(args.interval)
            continue
        if isinstance(done, Promoted):
            _tell(args, promoted_as_json(done), describe(args.suite, done))
        elif done.reason != last or not args.watch:
            stays = {"promoted": False, "cause": done.cause.value, "reason": done.reason}
            _tell(args, stays, f"{args.suite} stays: {done.reason}")
        last = done.reason if isinstance(done, Stay) else ""
        if not args.watch:
            return 0
        if isinstance(done, Stay):
            time.sleep(args.interval)


def _here(args: argparse.Namespace) -> _Turn:
    """At the farm's own repository."""
    require_local(args, "token_file", "tls_ca", "source", "root_fingerprint", "state")
    repository = repository_from(args)
    farm = Farm(repository, open_database(repository), given_key(args))
    # Read again each time: suites are edited while this runs.
    return lambda now: promote_next(farm, find_suite(read_suites(repository), args.suite), now)


def _elsewhere(args: argparse.Namespace) -> _Turn:
    """On a machine of its own, over HTTP."""
    signer = given_key(args)
    if signer is None or args.source is None:
        raise UserError(
            "a signer elsewhere needs its key, and the branch whose builds it may sign",
            hint="--sign-with FILE --source BRANCH",
        )
    farm = connect(args.server, read_secret(args.token_file, args.server), args.tls_ca)
    trusted = trust_farm(farm, state_directory(args.state), args.root_fingerprint)
    target, source = parse_branch_name(args.suite), parse_branch_name(args.source)
    return RemoteSigner(farm, trusted, signer, target, source).promote_next


def promoted_as_json(done: Promoted) -> dict[str, object]:
    """For --json."""
    return {
        "promoted": True,
        "head": done.head.hex(),
        "sequence": done.commit.sequence,
        "promoted-from": done.build.hex(),
    }


def describe(branch: str, done: Promoted) -> str:
    """One line for a person."""
    return (
        f"{branch} moved: {done.head.hex()[:12]} (number {done.commit.sequence}) carries "
        f"{done.build.hex()[:12]}"
    )


def _tell(args: argparse.Namespace, document: Mapping[str, object], text: str) -> None:
    if args.json:
        emit_event(document)
    say(args, text)
    sys.stdout.flush()
