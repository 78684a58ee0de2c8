"""`hacktree layer`: what a person built, laid over every new root."""

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

from hacktree.common.errors import UserError

_ACTIONS: Final = "hacktree.client.commands.layer_actions"

_SUMMARIES: Final = {
    "add": "Add a layer from a directory, a tar archive or a command",
    "update": "Read a layer's source again, or run its command again",
    "set": "Say what a layer may replace, remove or lack",
    "list": "List the layers in the order in which they are laid",
    "show": "Show a layer: its source, its options, its versions",
    "check": "Say which layers conflict with a build or no longer fit it",
    "order": "Lay these layers first, in this order",
    "enable": "Lay a layer over new roots again",
    "disable": "Keep a layer, but lay it over no new root",
    "remove": "Forget a layer",
}

_EPILOG: Final = """\
A layer is a tree as `make install DESTDIR=` leaves one. It is kept as versions of its own in this
machine's repository, and laid over every root that is deployed from now on, after extensions and
before config scripts. Roots that exist stay as they are. What its next version no longer ships is
not in the roots made from then on.

A command is run in the directory where `layer add` is, with DESTDIR set to a fresh directory. Under
sudo it runs as the user who called sudo, unless --as-root. Files then belong to root, unless
--keep-owners.

A path that is in the build, or in an earlier layer, is a conflict: nothing is deployed, unless a
--replace pattern matches the path or a directory above it. --remove deletes paths of the build.
Patterns are those of fnmatch, where * matches / too. Libraries, and versions of their symbols, that
a layer needs and the root lacks stop the deploy, unless --misfit warn.

Examples:
  hacktree layer add mesa -- ninja -C build install
  hacktree layer add mesa ~/mesa/installed --replace 'usr/lib/*'
  hacktree layer add tools tools.tar.zst
  hacktree layer update mesa
  hacktree layer set mesa --replace 'usr/lib/*' --remove usr/share/vulkan/icd.d/intel_icd.json
  hacktree layer check
  hacktree deploy fastqa
  hacktree ls -r local/layers/mesa

Exit statuses: 0 done, 1 the command failed, or `check` found something, 2 wrong usage or input, no
such layer, 5 local data is damaged, 6 another layer command runs, 7 no space, 8 the system refused.
"""


class _AddParser(argparse.ArgumentParser):
    """Takes DIR behind options, too, where argparse has given it up."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        parsed, rest = super().parse_known_args(args, namespace)
        if getattr(parsed, "source", "") is None and rest and not rest[0].startswith("-"):
            parsed.source = rest.pop(0)
        return parsed, rest


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = "Lay what you built over every root that is deployed."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_AddParser
    )
    added = {
        name: actions.add_parser(name, help=summary[0].lower() + summary[1:], description=summary)
        for name, summary in _SUMMARIES.items()
    }
    for name, action in added.items():
        if name == "order":
            action.add_argument("names", metavar="NAME", nargs="+")
        elif name not in ("list", "check"):
            action.add_argument("name", metavar="NAME")
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )
    add = added["add"]
    add.usage = "hacktree layer add [-h] [OPTIONS] NAME (DIR | TAR | -- COMMAND...)"
    add.add_argument("source", metavar="DIR|TAR", nargs="?", help="or: -- COMMAND...")
    add.add_argument("--as-root", action="store_true", help="run the command as root under sudo")
    add.add_argument(
        "--keep-owners", action="store_true", help="files belong to whom they do there"
    )
    for name in ("add", "set"):
        action = added[name]
        action.add_argument(
            "--replace", metavar="PATTERN", action="append", help="what it may replace"
        )
        action.add_argument(
            "--remove", metavar="PATTERN", action="append", help="what of the build to delete"
        )
        action.add_argument(
            "--misfit",
            choices=["refuse", "warn"],
            help="what a missing library means (default: refuse)",
        )
    added["set"].epilog = "Patterns take the place of those before; an empty one stands for none."
    added["check"].add_argument(
        "revision", metavar="REV", nargs="?", help="the build (default: the live root's)"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if args.command and args.action != "add":
        raise UserError("only `layer add` takes a command", hint="See hacktree layer --help.")
    module: ModuleType = importlib.import_module(_ACTIONS)
    status: int = module.ACTIONS[args.action](args)
    return status
