"""`hacktree promote`: a person moves a branch to a build."""

import argparse
import getpass
import textwrap
import time

import msgspec

from hacktree.common.cli.connection import read_secret, state_directory
from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.errors import UserError
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.revision import resolve
from hacktree.server.database import open_database
from hacktree.server.promotion.connecting import (
    add_farm_options,
    add_signer_options,
    connect,
    given_key,
    refuse_name,
    require_local,
    trust_farm,
)
from hacktree.server.promotion.farm_client import sensible
from hacktree.server.promotion.messages import PromoteAnswer, PromoteRequest, decode, encode
from hacktree.server.promotion.promoted import Note
from hacktree.server.promotion.promoting import Farm, Promoted, promote_by_hand
from hacktree.server.promotion.remote_signing import RemoteSigner
from hacktree.server.promotion.settings import read_suites


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = textwrap.dedent("""\
        Promote a build whatever its verdicts say. It must be a build of the branch's source and
        come after the one that was promoted last; what is held is released first. The reason is
        kept in the commit.""")
    parser.epilog = textwrap.dedent("""\
        Run again after an interruption: a build that the head carries already is answered at once.

        Examples:
          hacktree --repo /srv/hacktree promote fastqa builds~0 --reason "the lab is down"
          hacktree promote fastqa 3f9c21ab --reason "flaky test" --sign-with /media/key/fastqa
          hacktree promote fastqa builds~1 --reason "flaky test" --server https://farm.example \\
              --token-file promote-token --sign-with /media/key/fastqa --source builds \\
              --root-fingerprint 9f86d081…

        With --server and a key it is signed here, as `hacktree qa sign` does; COMMIT is a signed
        build of --source. Without a key the farm makes the commit: for farms without signatures.

        Exit statuses: 0 done or done before, 2 wrong usage, no such build, not newer, held, or no
        key, 4 the farm is unreachable, refuses, or is not to be believed, 5 local data is damaged,
        6 somebody holds the lock or the branch moved meanwhile, 7 no space, 8 the system
        refused.""")
    parser.add_argument("branch", metavar="BRANCH", help="which branch moves")
    parser.add_argument("commit", metavar="COMMIT", help="the build: an id, builds~2, …")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why")
    parser.add_argument("--by", metavar="NAME", help="who (default: the user's name)")
    add_farm_options(parser, "promote:BRANCH")
    add_signer_options(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    branch = parse_branch_name(args.branch)
    if args.server is not None and args.key is None:
        return _ask(args, branch)
    done = _here(args, branch) if args.server is None else _sign(args, branch)
    if args.json:
        emit_json(
            {
                "head": done.head.hex(),
                "sequence": done.commit.sequence,
                "promoted-from": done.build.hex(),
                "repeated": done.repeated,
            }
        )
    say(args, f"{branch} is at {done.head.hex()[:12]}, which carries {done.build.hex()[:12]}")
    return 0


def _here(args: argparse.Namespace, branch: BranchName) -> Promoted:
    """At the farm's own repository."""
    require_local(args, "token_file", "tls_ca", "source", "root_fingerprint", "state")
    repository = repository_from(args)
    farm = Farm(repository, open_database(repository), given_key(args))
    suite = read_suites(repository).get(branch)
    build = resolve(repository, args.commit)
    return promote_by_hand(farm, suite, branch, build, _note(args), int(time.time()))


def _sign(args: argparse.Namespace, branch: BranchName) -> Promoted:
    """Over HTTP, with the branch's key."""
    key = given_key(args)
    if key is None or args.source is None:
        raise UserError("which branch is it promoted from?", hint="--source BRANCH")
    farm = connect(args.server, read_secret(args.token_file, args.server), args.tls_ca)
    trusted = trust_farm(farm, state_directory(args.state), args.root_fingerprint)
    signer = RemoteSigner(farm, trusted, key, branch, parse_branch_name(args.source))
    return signer.promote_by_hand(args.commit, _note(args), int(time.time()))


def _ask(args: argparse.Namespace, branch: BranchName) -> int:
    """Over HTTP, for a farm whose branches nobody signs."""
    refuse_name(args)
    farm = connect(args.server, read_secret(args.token_file, args.server), args.tls_ca)
    request = PromoteRequest(branch, args.commit, args.reason)
    data = farm.ask("POST", "qa/promote", encode(request))
    answer = sensible(lambda: decode(PromoteAnswer, data))
    if args.json:
        emit_json(msgspec.to_builtins(answer))
    say(args, f"{branch} is at {answer.head[:12]} on {args.server}")
    return 0


def _note(args: argparse.Namespace) -> Note:
    return Note(args.reason, args.by or getpass.getuser())
