"""`hacktree remote`: say where builds come from."""

import argparse
import asyncio
import os
from pathlib import Path

import msgspec

from hacktree.client.connect import open_source
from hacktree.client.remote import (
    Remote,
    add_remote,
    list_remotes,
    load_remote,
    remove_remote,
)
from hacktree.client.retry import real_patience
from hacktree.client.waiting import LOGGER
from hacktree.common.cli.context import repository_path
from hacktree.common.cli.notices import show_notices
from hacktree.common.cli.output import emit_json, say, show, warn
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.repository.repository import Repository, open_repository

_EPILOG = """\
Examples:
  hacktree remote add farm https://builds.example.org/tree \\
    --root-fingerprint 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  hacktree remote add lab file:///srv/tree --unsigned
  hacktree remote list

The fingerprint is what `hacktree trust status` shows on the build farm. --unsigned is for servers
on this machine only.

Exit statuses: 0 done, 2 wrong usage, no such remote or a name that is taken, 4 the server's root is
another one or can't be had, 8 the system refused.
"""


class UnsignedRemoteError(UserError):
    """Builds from over a network were to be believed without a signature."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="add a remote")
    add.add_argument("name", metavar="NAME")
    add.add_argument("url", metavar="URL", help="http://…, https://… or file:///…")
    whom = add.add_mutually_exclusive_group(required=True)
    whom.add_argument(
        "--root-fingerprint", metavar="SHA256", help="of the root whose signatures count"
    )
    whom.add_argument("--root-file", metavar="FILE", help="that root itself: trust/1.root.json")
    whom.add_argument(
        "--unsigned", action="store_true", help="believe a server on this machine, or file:///"
    )
    add.add_argument("--tls-ca", metavar="FILE", help="the authority that signed the server's key")
    add.add_argument("--tls-cert", metavar="FILE", help="this machine's certificate")
    add.add_argument("--tls-key", metavar="FILE", help="the certificate's key")
    add.add_argument(
        "--token-file", metavar="FILE", help="holds a token for lease:BRANCH, for `hacktree bisect`"
    )
    add.add_argument("--proxy", metavar="URL", help="proxy (default: the environment's)")
    listing = actions.add_parser("list", help="list remotes")
    show = actions.add_parser("show", help="show one remote")
    show.add_argument("name", metavar="NAME")
    for action in (listing, show):
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )
    remove = actions.add_parser("remove", help="forget a remote; what was pulled stays")
    remove.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    show_notices(args, LOGGER)
    repository = _repository(args)
    if args.action == "add":
        _add(repository, args)
    elif args.action == "remove":
        remove_remote(repository, args.name)
        say(args, f"Remote {args.name} removed")
    elif args.action == "show":
        _show(load_remote(repository, args.name), args)
    else:
        _list(repository, args)
    return 0


def _repository(args: argparse.Namespace) -> Repository:
    """The repository the remote belongs to; the sysroot's is made when it isn't there yet."""
    if args.repo or os.environ.get("HACKTREE_REPO"):
        return open_repository(repository_path(args))
    from hacktree.client.sysroot import open_sysroot, prepare_sysroot

    if args.action == "add":
        return prepare_sysroot(args.sysroot).repository
    return open_sysroot(Path(args.sysroot)).repository


def _add(repository: Repository, args: argparse.Namespace) -> None:
    remote = Remote(
        args.name,
        args.url,
        "unsigned" if args.unsigned else "tuf",
        tls_ca=_absolute(args.tls_ca),
        tls_cert=_absolute(args.tls_cert),
        tls_key=_absolute(args.tls_key),
        proxy=args.proxy,
        token_file=_absolute(args.token_file),
    )
    if args.unsigned and not remote.is_near:
        raise UnsignedRemoteError(
            f"{remote.shown_url} is not on this machine: unsigned, anybody on the way could decide "
            "what runs here",
            hint="Ask whoever runs the farm for the fingerprint that `hacktree trust status` shows "
            "there, and say --root-fingerprint SHA256.",
        )
    anchor = None if args.unsigned else _anchor(remote, args)
    add_remote(repository, remote)
    if anchor is None:
        warn(f"remote {remote.name} is unsigned: who controls {remote.shown_url} decides what runs")
    else:
        from hacktree.client.signed_heads import keep_anchor

        keep_anchor(repository, remote.name, anchor)
    say(args, f"Remote {remote.name} added: {remote.shown_url}")


def _anchor(remote: Remote, args: argparse.Namespace) -> bytes:
    from hacktree.common.trust.verifying import FIRST_ROOT, check_anchor, limit_of

    if args.root_file is not None:
        with open(args.root_file, "rb") as stream:
            data = stream.read(limit_of(FIRST_ROOT))
        check_anchor(data, hash_bytes(data).hex())
        return data
    return asyncio.run(_fetch_anchor(remote, args.root_fingerprint))


async def _fetch_anchor(remote: Remote, fingerprint: str) -> bytes:
    from hacktree.client.signed_heads import fetch_anchor

    async with open_source(remote, real_patience(), 1) as source:
        return await fetch_anchor(source, fingerprint)


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _as_json(remote: Remote) -> dict[str, object]:
    return {**msgspec.to_builtins(remote), "url": remote.shown_url}


def _list(repository: Repository, args: argparse.Namespace) -> None:
    remotes = list_remotes(repository)
    if args.json:
        emit_json([_as_json(remote) for remote in remotes])
        return
    for remote in remotes:
        show(f"{remote.name}\t{remote.shown_url}\t{remote.trust}")


def _show(remote: Remote, args: argparse.Namespace) -> None:
    fields = _as_json(remote)
    if args.json:
        emit_json(fields)
        return
    for name, value in fields.items():
        if value is not None:
            show(f"{name}: {value}")
