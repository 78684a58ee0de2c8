"""`hacktree token`: what lets peers push, report verdicts and promote."""

import argparse
import textwrap
import time

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time, say, show, tell
from hacktree.common.errors import UserError
from hacktree.common.repository.retention import parse_duration
from hacktree.server.database import Database, open_database
from hacktree.server.grants import parse_grant
from hacktree.server.tokens import MAX_LIFETIME, Token, create_token, list_tokens, revoke_token

_NEVER = "never"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = textwrap.dedent("""\
        A token lets a peer do something on some branches. Its secret is printed once, by create,
        and can't be learnt again: the repository keeps a hash in state/server.sqlite.""")
    parser.epilog = textwrap.dedent("""\
        A grant is ACTION:BRANCH-PATTERN. Actions are push, verdict, promote, lease (builds for a
        bisection) and admin; none implies another. In a pattern * stands for any characters but
        '/', a component ** for any number of components: push:builds, verdict:*,
        promote:gnomeos/*/fastqa, admin:**.

        Examples:
          hacktree --repo /srv/hacktree token create --can push:builds --expires 90d --label CI
          hacktree --repo /srv/hacktree token create --can verdict:builds --can verdict:fastqa \\
              --expires 12h
          hacktree --repo /srv/hacktree token list
          hacktree --repo /srv/hacktree token revoke 3f9c21ab

        Exit statuses: 0 done, 2 wrong usage, a malformed grant or time, no such token or no
        archive, 5 the database is damaged, 6 it is in use, 7 no space, 8 the system refused.""")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a token and print its secret")
    create.add_argument(
        "--can",
        metavar="GRANT",
        action="append",
        required=True,
        help="what it allows, as ACTION:BRANCH-PATTERN (may be repeated)",
    )
    create.add_argument(
        "--expires", metavar="AGE", required=True, help="when: 90d, 12h, 30m from now, or never"
    )
    create.add_argument("--label", metavar="TEXT", default="", help="who or what it is for")
    listing = actions.add_parser("list", help="list tokens, without their secrets")
    revoke = actions.add_parser("revoke", help="make a token worthless")
    revoke.add_argument("id", metavar="ID", help="as `token list` shows it")
    for action in (create, listing, revoke):
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    now = int(time.time())
    if args.action == "create":
        _create(args, now)
    elif args.action == "list":
        _list(open_database(repository_from(args)), args, now)
    else:
        token = revoke_token(open_database(repository_from(args)), args.id, now)
        if args.json:
            emit_json(_as_json(token, now))
        say(args, f"token {token.id} is revoked")
    return 0


def _create(args: argparse.Namespace, now: int) -> None:
    grants = [parse_grant(text) for text in args.can]
    expires = _parse_expiry(args.expires)
    database = open_database(repository_from(args))
    token, secret = create_token(database, grants, args.label, expires, now)
    if args.json:
        emit_json({**_as_json(token, now), "secret": secret})
        return
    if not args.quiet:
        # Beside standard output, so that a script can take that as the secret.
        tell(f"token {token.id}: keep the secret now, it can't be shown again")
    show(secret)


def _parse_expiry(text: str) -> int | None:
    if text == _NEVER:
        return None
    seconds = parse_duration(text)
    if not 1 <= seconds <= MAX_LIFETIME:
        raise UserError(f"a token can't expire after {text}", hint="Examples: 90d, 12h, never.")
    return int(seconds)


def _list(database: Database, args: argparse.Namespace, now: int) -> None:
    tokens = list_tokens(database)
    if args.json:
        emit_json([_as_json(token, now) for token in tokens])
        return
    for token in tokens:
        grants = " ".join(map(str, token.grants))
        label = f"  ({token.label})" if token.label else ""
        show(f"{token.id}  {token.standing(now):<7}  {grants}{label}")
        show(
            f"          made {format_time(token.created)}, expires {_time(token.expires)}, "
            f"last used {_time(token.last_used)}"
        )
    if not tokens:
        say(args, "no tokens: `hacktree token create` makes one")


def _time(seconds: int | None) -> str:
    return _NEVER if seconds is None else format_time(seconds)


def _as_json(token: Token, now: int) -> dict[str, object]:
    return {
        "id": token.id,
        "label": token.label,
        "grants": [str(grant) for grant in token.grants],
        "standing": token.standing(now).value,
        "created": token.created,
        "expires": token.expires,
        "revoked": token.revoked,
        "last-used": token.last_used,
    }
