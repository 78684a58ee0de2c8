"""`hacktree extension`: packages of other systems, installed on every new root."""

import argparse
from pathlib import Path

from hacktree.client.extensions.checking import Findings, check_extensions
from hacktree.client.extensions.conflicts import describe
from hacktree.client.extensions.store import (
    EXTENSIONS,
    Extension,
    ExtensionError,
    Options,
    add_extension,
    find_stored,
    list_extensions,
    remove_stored,
)
from hacktree.client.extensions.treeview import TreeView
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, hold_sysroot, open_sysroot, prepare_sysroot
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.revision import resolve

_DESCRIPTION = (
    "RPM and deb packages that are installed on every new root, over whatever the build is made "
    "of. The host's rpm or dpkg installs them; the build needs neither. Each deploy makes the root "
    "anew, so adding and removing take effect with the next one."
)
_EPILOG = """\
Examples:
  hacktree extension add ./mesa-demos-9.0.0-4.x86_64.rpm ./gputop.deb
  hacktree extension add ./mesa-libGL.rpm --replace 'usr/lib64/libGL*' --replace usr/lib64/dri
  hacktree extension add ./vendor.rpm --assume desktop-file-utils --assume webkit=2.46
  hacktree extension list
  hacktree extension check --revision fastqa
  hacktree extension remove mesa-demos

Exit statuses: 0 done, 1 `check` found something, 2 wrong usage, no such extension or a damaged
package, 5 local data is damaged, 6 a deploy is under way, 8 the system refused, or the host has no
rpm or dpkg.
"""
_SHOWN = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="copy packages in, instead of other versions of them")
    add.add_argument("files", metavar="FILE", nargs="+", help="a .rpm or .deb file")
    add.add_argument(
        "--replace",
        metavar="PATTERN",
        action="append",
        default=[],
        help="paths of the build that the packages may replace, and what is below them",
    )
    add.add_argument(
        "--assume",
        metavar="NAME[=VERSION]",
        action="append",
        default=[],
        help="what the packages need and you know to be there",
    )
    listing = actions.add_parser("list", help="list the packages")
    remove = actions.add_parser("remove", help="leave packages out of the next root")
    remove.add_argument("names", metavar="NAME", nargs="+", help="NAME, NAME.ARCH or its file")
    check = actions.add_parser(
        "check", help="look for conflicts and unmet dependencies, without a root"
    )
    check.add_argument(
        "--revision", metavar="REV", help="a build that is here (default: that of the live root)"
    )
    for action in (add, listing, remove, check):
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if args.action == "add":
        return _add(prepare_sysroot(args.sysroot), args)
    sysroot = open_sysroot(Path(args.sysroot))
    if args.action == "list":
        return _list(sysroot, args)
    if args.action == "remove":
        return _remove(sysroot, args)
    return _check(sysroot, args)


def _add(sysroot: Sysroot, args: argparse.Namespace) -> int:
    try:
        options = Options(tuple(args.replace), tuple(args.assume))
    except ValueError as error:
        raise ExtensionError(str(error), hint="See `hacktree extension --help`.") from error
    added = []
    for file in args.files:
        with hold_sysroot(sysroot):
            new, old = add_extension(sysroot, Path(file), options)
        added.append(_document(new))
        instead = f" instead of {old.package.package.version}" if old else ""
        say(args, f"added {new.package}{instead}")
    if args.json:
        emit_json(added)
    say(args, "The next deploy installs it; `hacktree extension check` tells whether it fits.")
    return 0


def _document(extension: Extension) -> dict[str, object]:
    package = extension.package.package
    return {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "kind": extension.package.kind,
        "files": len(extension.package.files),
        "path": str(extension.package.file),
        "replace": list(extension.options.replace),
        "assume": list(extension.options.assume),
    }


def _list(sysroot: Sysroot, args: argparse.Namespace) -> int:
    extensions = list_extensions(sysroot)
    if args.json:
        emit_json([_document(extension) for extension in extensions])
        return 0
    for extension in extensions:
        package = extension.package.package
        name = f"{package.name}\t{package.version}\t{package.architecture}"
        show(f"{name}\t{extension.package.file.name}")
        for option, values in (
            ("replaces", extension.options.replace),
            ("assumes", extension.options.assume),
        ):
            if values:
                show(f"  {option} {' '.join(values)}")
    return 0


def _remove(sysroot: Sysroot, args: argparse.Namespace) -> int:
    with hold_sysroot(sysroot):
        files = list(dict.fromkeys(find_stored(sysroot, name) for name in args.names))
        for file in files:
            remove_stored(file)
            say(args, f"removed {EXTENSIONS / file.name}; the next root is made without it")
    if args.json:
        emit_json([str(file) for file in files])
    return 0


def _check(sysroot: Sysroot, args: argparse.Namespace) -> int:
    record = read_roots(sysroot).live
    live = record.commit_id if record is not None else None
    commit = resolve(sysroot.repository, args.revision) if args.revision else live
    if commit is None:
        raise ExtensionError("no root is live", hint="Name a build: --revision BRANCH.")
    view = TreeView(sysroot.repository, sysroot.repository.load_commit(commit))
    extensions = list_extensions(sysroot)
    findings = check_extensions(view, extensions, live)
    if args.json:
        emit_json(
            {
                "commit": commit.hex(),
                "fits": findings.fits,
                "extensions": [_document(extension) for extension in extensions],
                "conflicts": [
                    {"package": c.package, "path": c.path, "reason": c.reason}
                    for c in findings.conflicts
                ],
                "said": list(findings.said),
                "since": list(findings.since),
            }
        )
    else:
        _show(args, commit, len(extensions), findings)
    return 0 if findings.fits else 1


def _show(args: argparse.Namespace, commit: ObjectId, count: int, findings: Findings) -> None:
    for line in (*describe(list(findings.conflicts), most=_SHOWN), *findings.said, *findings.since):
        show(line)
    if findings.fits:
        say(args, f"{count} extensions fit {commit.hex()[:9]}")
