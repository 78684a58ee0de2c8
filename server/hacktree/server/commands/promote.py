"""`hacktree promote`: a person moves a branch to a build."""

import argparse
import getpass
import textwrap
import time
from pathlib import Path

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.revision import resolve
from hacktree.server.database import open_database
from hacktree.server.promotion.promoted import Note
from hacktree.server.promotion.promoting import Farm, promote_by_hand
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.signingkey import read_signing_key


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
          hacktree promote fastqa 3f9c21ab --reason "flaky test" --key /media/key/fastqa

        Exit statuses: 0 done or done before, 2 wrong usage, no such build, not newer, held, or no
        key, 5 local data is damaged, 6 somebody holds the lock or the branch moved meanwhile,
        7 no space, 8 the system refused.""")
    parser.add_argument("branch", metavar="BRANCH", help="which branch moves")
    parser.add_argument("commit", metavar="COMMIT", help="the build: an id, builds~2, …")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why")
    parser.add_argument("--by", metavar="NAME", help="who (default: the user's name)")
    parser.add_argument("--key", metavar="FILE", help="the branch's key, for a signed farm")
    parser.add_argument("--passphrase-file", metavar="FILE", help="if the key is encrypted")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    repository = repository_from(args)
    branch = parse_branch_name(args.branch)
    passphrase = Path(args.passphrase_file) if args.passphrase_file else None
    signer = read_signing_key(Path(args.key) if args.key else None, passphrase)
    farm = Farm(repository, open_database(repository), signer)
    suite = read_suites(repository).get(branch)
    build = resolve(repository, args.commit)
    note = Note(args.reason, args.by or getpass.getuser())
    done = promote_by_hand(farm, suite, branch, build, note, int(time.time()))
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
