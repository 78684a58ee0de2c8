"""`hacktree trust`: who may move which branch, and the signatures that say where branches are."""

import argparse
import importlib
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Final

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time, say, show

_PACKAGE: Final = "hacktree.common.commands"

_SUMMARIES: Final = {
    "new-key": "Make a key pair: FILE, encrypted, and FILE.pub",
    "init": "Sign a repository for the first time",
    "delegate": "Let a key move a branch",
    "add-key": "Let one more key sign for a role or a branch",
    "rotate": "Replace or revoke a key of a role or a branch",
    "sign": "Sign where a branch is",
    "cosign": "Show a pending change and add a signature to it, on any machine",
    "apply": "Publish a pending change that enough keys have signed",
    "renew": "Sign again what expires soon",
    "status": "Show roles, keys, heads and when each signature expires",
}

_EPILOG: Final = """\
Root and targets keys stay offline, on media that are plugged in to sign; each branch has keys of
its own, on the machines that move it. The snapshot and the timestamp are signed by a key that lies
on the server. docs/operations.md goes through it all.

ROLE is root, targets, online, or the name of a branch.

Where several keys must sign, and are not in one place, --pending FILE writes the change instead of
publishing it; `cosign` shows and signs it where each key is, `apply` publishes it.

Examples:
  hacktree --repo /srv/tree trust init --root-key /media/key/root --targets-key /media/key/targets
  hacktree trust new-key ~/.config/hacktree/ci-builds
  hacktree --repo /srv/tree trust delegate builds --key ci-builds.pub \\
    --sign-with /media/key/targets
  hacktree --repo /srv/tree trust sign builds --key ~/.config/hacktree/ci-builds
  hacktree --repo /srv/tree trust renew
  hacktree --repo /srv/tree trust rotate root --revoke 3f9c21ab --key new.pub --pending change.json
  hacktree trust cosign change.json --key /media/key/root
  hacktree --repo /srv/tree trust apply change.json
  hacktree --repo /srv/tree trust status

Exit statuses: 0 done, 2 wrong usage, key or passphrase, or a signature is missing, 5 the metadata
is damaged, 6 somebody else publishes, or a pending change is out of date, 8 the system refused."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    added = {
        name: actions.add_parser(name, help=summary[0].lower() + summary[1:], description=summary)
        for name, summary in _SUMMARIES.items()
    }
    added["new-key"].add_argument("file", metavar="FILE")
    added["init"].add_argument(
        "--root-key", metavar="FILE", action="append", required=True,
        help="private root key; made if it is not there; may be repeated",
    )  # fmt: skip
    added["init"].add_argument(
        "--targets-key", metavar="FILE", action="append", required=True, help="likewise"
    )
    added["init"].add_argument(
        "--threshold", metavar="N", type=int, default=1, help="root keys that must sign together"
    )
    for name in ("delegate", "sign"):
        added[name].add_argument("branch", metavar="BRANCH")
    added["sign"].add_argument("revision", metavar="REV", nargs="?", help="default: the head")
    added["sign"].add_argument("--key", metavar="FILE", required=True, help="the branch's key")
    for name in ("add-key", "rotate"):
        added[name].add_argument("role", metavar="ROLE")
    added["delegate"].add_argument("--key", metavar="FILE", action="append", required=True)
    added["add-key"].add_argument("--key", metavar="FILE", required=True)
    added["add-key"].add_argument("--threshold", metavar="N", type=int, help="of root or targets")
    added["rotate"].add_argument("--revoke", metavar="KEYID", action="append", default=[])
    added["rotate"].add_argument(
        "--key",
        metavar="FILE",
        help="a private key that signs from now (--pending: or a public one)",
    )
    added["renew"].add_argument(
        "--role", choices=["root", "targets"], help="sign this role again with --sign-with"
    )
    for name in ("delegate", "add-key", "rotate", "renew"):
        added[name].add_argument(
            "--pending", metavar="FILE", help="write the change to FILE, for others to sign"
        )
        added[name].add_argument(
            "--sign-with", metavar="FILE", action="append", default=[],
            help="private keys: of targets for a branch, else of root",
        )  # fmt: skip
    added["renew"].add_argument(
        "--branch", metavar="BRANCH", help="renew the signature of this branch with --key as well"
    )
    added["renew"].add_argument("--key", metavar="FILE", help="the branch's key")
    added["cosign"].add_argument("file", metavar="FILE")
    added["cosign"].add_argument("--key", metavar="FILE", help="sign with it; else only show")
    added["cosign"].add_argument(
        "--current-root", metavar="SHA256", help="refuse a change that begins with another root"
    )
    added["cosign"].add_argument("--yes", action="store_true", help="don't ask")
    added["apply"].add_argument("file", metavar="FILE", nargs="+", help="copies are merged")
    added["apply"].add_argument(
        "--resign-with", metavar="FILE", action="append", default=[],
        help="keys of branches whose old key is revoked, to sign their heads again",
    )  # fmt: skip
    for name in ("renew", "status", "cosign", "apply"):
        added[name].add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )
    for name, action in added.items():
        if name != "status":
            action.add_argument("--passphrase-file", metavar="FILE", help="else asked for")
    added["new-key"].add_argument(
        "--no-passphrase", action="store_true", help="for keys of machines: keep it well"
    )
    added["init"].add_argument(
        "--no-passphrase", action="store_true", help="for keys that it makes"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if args.action == "status":
        _status(args)
        return 0
    # What signs needs cryptography, which takes longer to import than --help may.
    name = "trust_pending" if args.action in ("cosign", "apply") else "trust_actions"
    module: ModuleType = importlib.import_module(f"{_PACKAGE}.{name}")
    status: int = module.run(args, datetime.now(UTC))
    return status


def _status(args: argparse.Namespace) -> None:
    from hacktree.common.trust.report import describe
    from hacktree.common.trust.store import TrustStore

    store = TrustStore(repository_from(args))
    report = describe(store, datetime.now(UTC))
    if args.json:
        emit_json(report.as_json())
        return
    show(f"Root fingerprint  {report.fingerprint}")
    if report.current_root != report.fingerprint:
        show(f"Current root      {report.current_root}")
    for role in report.roles:
        due = " — EXPIRED" if role.expired else " — renew soon" if role.due else ""
        show(f"{role.name:<24} version {role.version}, until {format_time(role.expires)}{due}")
        show(f"{'':<24} {role.threshold} of: {' '.join(key[:16] for key in role.keys)}")
        if role.head:
            ahead = " (the branch is elsewhere: not signed yet)" if role.behind else ""
            show(f"{'':<24} head {role.head[:16]}{ahead}")
    say(args, f"Metadata in {Path('trust')}/, online key in state/trust/")
