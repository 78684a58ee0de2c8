"""`hacktree qa sign`: the signer."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import say, warn
from hacktree.common.errors import BusyError
from hacktree.server.database import open_database
from hacktree.server.promotion.decision import Stay
from hacktree.server.promotion.promoting import Farm, Promoted, promote_next
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.signingkey import read_signing_key
from hacktree.server.promotion.suites import find_suite


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    repository = repository_from(args)
    passphrase = Path(args.passphrase_file) if args.passphrase_file else None
    signer = read_signing_key(Path(args.key) if args.key else None, passphrase)
    farm = Farm(repository, open_database(repository), signer)
    last = ""
    while True:
        # Read again each time: suites are edited while this runs.
        suite = find_suite(read_suites(repository), args.suite)
        try:
            done = promote_next(farm, suite, int(time.time()))
        except BusyError as error:
            if not args.watch:
                raise
            warn(error.message)
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
        print(json.dumps(document), flush=True)
    say(args, text)
    sys.stdout.flush()
