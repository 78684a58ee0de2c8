"""`hacktree qa retest`: another run for a build that was not passed."""

import argparse
import getpass
import time

from hacktree.common.cli.connection import read_secret
from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.objects.names import parse_branch_name
from hacktree.server.database import open_database
from hacktree.server.promotion.connecting import connect, refuse_name, require_local
from hacktree.server.promotion.farm_client import sensible
from hacktree.server.promotion.messages import RetestAnswer, RetestRequest, decode, encode
from hacktree.server.promotion.retesting import retest
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.suites import find_suite


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    build = _here(args) if args.server is None else _elsewhere(args)
    if args.json:
        emit_json({"suite": args.suite, "build": build, "reason": args.reason})
    say(args, f"{args.suite}: {build[:12]} is tested again by the next runner")
    return 0


def _here(args: argparse.Namespace) -> str:
    require_local(args, "token_file", "tls_ca")
    repository = repository_from(args)
    suite = find_suite(read_suites(repository), args.suite)
    note = (args.reason, args.by or getpass.getuser())
    now = int(time.time())
    return retest(repository, open_database(repository), suite, args.build, note, now).build.hex()


def _elsewhere(args: argparse.Namespace) -> str:
    refuse_name(args)
    farm = connect(args.server, read_secret(args.token_file, args.server), args.tls_ca)
    request = RetestRequest(parse_branch_name(args.suite), args.reason, args.build or "")
    answer = farm.ask("POST", "qa/retest", encode(request))
    return sensible(lambda: decode(RetestAnswer, answer)).build
