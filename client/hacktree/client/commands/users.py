"""`hacktree users`."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, hold_sysroot, open_sysroot
from hacktree.client.users.merging import Placement
from hacktree.client.users.preview import Preview, preview
from hacktree.client.users.registry import read_registry, without_name, write_registry
from hacktree.common.cli.output import emit_json, say
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Show what the next root gets of this machine: its people and their groups, copies of its "
        "files, its directories; and what stands in the way. Nothing is changed."
    )
    parser.add_argument(
        "revision", metavar="REV", nargs="?", help="the build (default: that of the current root)"
    )
    parser.add_argument(
        "--forget",
        metavar="NAME",
        help="let a user and group that a script or an extension creates get other ids",
    )
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="with --forget: only say what would be done"
    )
    parser.epilog = """\
People are the users of this machine whose uid is an ordinary one (login.defs), and those that
[users] in client.toml asks for.

Examples:
  hacktree users
  hacktree users fastqa~1 --json
  hacktree users --forget exampled

Exit statuses: 0 done, also with conflicts, 2 there is no such build or name, or client.toml asks
for what can't be, 5 the registry of ids is damaged, 6 a deploy is under way."""


def run(args: argparse.Namespace) -> int:
    """Show, or forget."""
    sysroot = open_sysroot(Path(args.sysroot))
    if args.forget is not None:
        return _forget(args, sysroot)
    commit_id = _commit(sysroot, args.revision)
    shown = preview(sysroot, sysroot.repository.load_commit(commit_id))
    if args.json:
        emit_json(_document(shown, commit_id))
    else:
        _show(args, shown)
    return 0


def _commit(sysroot: Sysroot, revision: str | None) -> ObjectId:
    if revision is not None:
        return resolve(sysroot.repository, revision)
    live = read_roots(sysroot).live
    if live is None:
        raise UserError(
            "no root is live, so no build is meant", hint="Name one: `hacktree users fastqa`."
        )
    return live.commit_id


def _forget(args: argparse.Namespace, sysroot: Sysroot) -> int:
    with hold_sysroot(sysroot):
        registry = read_registry(sysroot)
        left = without_name(registry, args.forget)
        if not args.dry_run:
            write_registry(sysroot, left)
    users, groups = registry.users.get(args.forget, ()), registry.groups.get(args.forget, ())
    if args.json:
        emit_json({"forgotten": args.forget, "uids": users, "gids": groups})
    else:
        ids = ", ".join([*(f"uid {uid}" for uid in users), *(f"gid {gid}" for gid in groups)])
        say(args, f"{'would forget' if args.dry_run else 'forgot'} {args.forget}: {ids}")
    return 0


def _document(shown: Preview, commit: ObjectId) -> dict[str, object]:
    return {
        "commit": commit.hex(),
        "host": None if shown.host is None else str(shown.host),
        "users": [_user(placement) for placement in shown.merge.placements],
        "groups": [{"name": group.name, "gid": group.gid} for group in shown.people.groups],
        "carried": [carried.path for carried in shown.carrying.files],
        "binds": [
            {"source": str(bind.source), "target": f"/{bind.target}", "read-only": bind.read_only}
            for bind in shown.binds
        ],
        "local": {"users": shown.registry.users, "groups": shown.registry.groups},
        "notes": list(shown.notes),
    }


def _user(placement: Placement) -> dict[str, object]:
    user = placement.person.user
    return {
        "name": user.name,
        "uid": user.uid,
        "state": placement.state,
        "why": placement.person.why,
        "home": user.home,
        "shell": placement.shell,
        "groups": placement.groups,
        "absent-groups": placement.absent_groups,
    }


def _show(args: argparse.Namespace, shown: Preview) -> None:
    if shown.host is None:
        say(args, "nobody: this sysroot belongs to no machine (`host` in client.toml names one)")
    for placement in shown.merge.placements:
        user = placement.person.user
        groups = f", in {', '.join(placement.groups)}" if placement.groups else ""
        say(args, f"{user.name} ({user.uid}) {placement.state}: {placement.person.why}{groups}")
        if placement.absent_groups and args.verbose:
            say(args, f"  not in this build: {', '.join(placement.absent_groups)}")
    for kind, names in (("user", shown.registry.users), ("group", shown.registry.groups)):
        for line in _local(kind, names):
            say(args, line)
    for bind in shown.binds:
        mode = ", read-only" if bind.read_only else ""
        say(args, f"directory /{bind.target} is {bind.source}{mode}, when entered or booted")
    for carried in shown.carrying.files:
        say(args, f"copy of {carried.path}")
    for note in shown.notes:
        say(args, f"note: {note}")


def _local(kind: str, names: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [f"{kind} {name} gets id {ids[0]}, if a step creates it" for name, ids in names.items()]
