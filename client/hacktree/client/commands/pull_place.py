"""From where `hacktree pull` pulls what, and into which repository."""

import argparse
import os
from typing import TYPE_CHECKING

import msgspec

from hacktree.client.remote import Remote, choose_remote
from hacktree.client.target import Wanted
from hacktree.common.cli.context import repository_path
from hacktree.common.errors import UserError
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import Repository, open_repository

if TYPE_CHECKING:
    from hacktree.client.sysroot import Sysroot


class Place(msgspec.Struct, frozen=True):
    """What the command line and the configuration say; no sysroot with --repo."""

    repository: Repository
    sysroot: "Sysroot | None"
    remote: Remote
    wanted: Wanted


def find_place(args: argparse.Namespace) -> Place:
    """Read the configuration; raises `UserError` and `CorruptError`."""
    wanted = Wanted.parse(args.wanted)
    if wanted.remote is not None and args.remote is not None and wanted.remote != args.remote:
        raise UserError(f"two remotes: {wanted.remote} and {args.remote}", hint="Name one.")
    name = wanted.remote or args.remote
    if args.repo or os.environ.get("HACKTREE_REPO"):
        repository = open_repository(repository_path(args))
        return Place(repository, None, choose_remote(repository, name), wanted)
    from hacktree.client.sysroot import prepare_sysroot

    sysroot = prepare_sysroot(args.sysroot)
    name = name or sysroot.config.remote or None
    branch = parse_branch_name(sysroot.config.full_branch(wanted.branch))
    remote = choose_remote(sysroot.repository, name)
    return Place(sysroot.repository, sysroot, remote, Wanted(name, branch, wanted.which))
