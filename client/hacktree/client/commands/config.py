"""`hacktree config`: scripts that are replayed on every new root."""

import argparse
import getpass
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hacktree.client.commands import config_capture, config_diff, config_kept
from hacktree.client.commands.config_test import run_test
from hacktree.client.scripts.answers import change_answers, parse_answer, read_answers
from hacktree.client.scripts.editing import edit_script
from hacktree.client.scripts.step import script_digest
from hacktree.client.scripts.store import (
    MAX_SCRIPT_BYTES,
    Found,
    ScriptError,
    State,
    add_script,
    find_scripts,
    remove_script,
    switch_script,
)
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.errors import UserError

_EPILOG: Final = """\
Scripts are executables in etc/hacktree/config.d of the sysroot. Each deploy runs them in the order
of their names, as root, chrooted in the new root, before that goes live. If one fails, nothing
changes. docs/operations.md, "Config scripts", says what they find there.

Examples:
  hacktree config add ~/10-locale
  hacktree config add setup.sh --name 20-dconf
  hacktree config list
  hacktree config test 20-dconf
  hacktree config test --revision fastqa~1
  hacktree config answer WIFI_NAME=lab
  hacktree config disable 20-dconf
  hacktree config diff
  hacktree config capture /etc/ssh --name 30-ssh
  hacktree config kept
  hacktree config restore latest /etc/ssh --dry-run
  hacktree deploy fastqa

Exit statuses: 0 done, 1 a script failed, 2 wrong usage, no such script or a name that is taken,
6 a deploy is under way or somebody is in the root, 7 no space, 8 the system refused."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = "Manage the scripts that every new root is changed by."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="copy a script to config.d")
    add.add_argument("file", metavar="FILE", help="the script, `-` for standard input")
    add.add_argument("--name", metavar="NAME", help="its name there (default: FILE's)")
    actions.add_parser("list", help="list the scripts in the order in which they run")
    test = actions.add_parser(
        "test",
        help="replay scripts on a root that is thrown away, and show what they change",
        description="Run one script, which may be disabled, after all that comes before it; or "
        "every script.",
    )
    test.add_argument("name", metavar="NAME", nargs="?", help="one script (default: all)")
    test.add_argument(
        "--revision", metavar="REV", help="of which build (default: the one that is live)"
    )
    for action, summary in (
        ("edit", "edit a script with $VISUAL or $EDITOR; checked afterwards"),
        ("disable", "keep a script and no longer run it"),
        ("enable", "run a script again"),
        ("remove", "delete a script"),
    ):
        actions.add_parser(action, help=summary).add_argument("name", metavar="NAME")
    answer = actions.add_parser(
        "answer",
        help="tell scripts what they must not contain",
        description="Set answers, which scripts read from the file $HACKTREE_ANSWERS. Without "
        "arguments, list the keys.",
    )
    answer.add_argument(
        "answers",
        metavar="KEY=VALUE",
        nargs="*",
        help="KEY alone asks for the value: it gets into no list of processes",
    )
    answer.add_argument("--unset", metavar="KEY", action="append", default=[], help="forget one")
    config_diff.configure(actions.add_parser("diff", help="show what was changed by hand in /etc"))
    config_capture.configure(
        actions.add_parser("capture", help="make a script of what was changed by hand")
    )
    config_kept.configure_kept(
        actions.add_parser("kept", help="list copies of what was changed by hand and left behind")
    )
    config_kept.configure_restore(
        actions.add_parser("restore", help="put back what such a copy holds")
    )
    for sub in actions.choices.values():
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    sysroot = Path(args.sysroot).resolve()
    if not sysroot.is_dir():
        raise UserError(f"{args.sysroot} is not a directory", hint="--sysroot names another.")
    if args.action == "test":
        return run_test(args)
    actions: dict[str, Callable[[Path, argparse.Namespace], None]] = {
        "add": _add,
        "list": _list,
        "edit": _edit,
        "disable": _switch,
        "enable": _switch,
        "remove": _remove,
        "answer": _answer,
        "diff": config_diff.run,
        "capture": config_capture.run,
        "kept": config_kept.run_kept,
        "restore": config_kept.run_restore,
    }
    actions[args.action](sysroot, args)
    return 0


def _add(sysroot: Path, args: argparse.Namespace) -> None:
    if args.file == "-":
        if args.name is None:
            raise ScriptError("standard input has no name", hint="Give it one with --name.")
        content, mode = sys.stdin.buffer.read(MAX_SCRIPT_BYTES + 1), 0o755
    else:
        with open(args.file, "rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read(MAX_SCRIPT_BYTES + 1)
    name = args.name or Path(args.file).name
    script = add_script(sysroot, name, content, mode)
    _done(
        args, script.name, f"{name} will run on every new root; try it: hacktree config test {name}"
    )


def _list(sysroot: Path, args: argparse.Namespace) -> None:
    found = find_scripts(sysroot)
    if args.json:
        emit_json([_document(one) for one in found])
        return
    for one in found:
        problem = f"  ({one.problem})" if one.state in (State.IGNORED, State.INVALID) else ""
        declared = ""
        if one.script is not None:
            network = "network, " if one.script.declarations.network else ""
            declared = f"  {network}at most {one.script.declarations.limit} s"
        show(f"{one.name:<24} {one.state.value}{declared}{problem}")


def _document(found: Found) -> dict[str, object]:
    script = found.script
    return {
        "name": found.name,
        "state": found.state.value,
        "digest": None if script is None else script_digest(script).hex(),
        "network": None if script is None else script.declarations.network,
        "limit": None if script is None else script.declarations.limit,
        "problem": found.problem or None,
    }


def _edit(sysroot: Path, args: argparse.Namespace) -> None:
    if edit_script(sysroot, args.name, os.environ):
        _done(args, args.name, f"{args.name} changed; try it: hacktree config test {args.name}")
    else:
        _done(args, args.name, f"{args.name} is unchanged")


def _switch(sysroot: Path, args: argparse.Namespace) -> None:
    state = State.ENABLED if args.action == "enable" else State.DISABLED
    changed = switch_script(sysroot, args.name, state)
    _done(args, args.name, f"{args.name} is {'' if changed else 'already '}{state.value}")


def _remove(sysroot: Path, args: argparse.Namespace) -> None:
    remove_script(sysroot, args.name)
    _done(args, args.name, f"{args.name} is removed")


def _answer(sysroot: Path, args: argparse.Namespace) -> None:
    # Asked for before the lock is taken: a person takes their time.
    new = dict(
        parse_answer(text if "=" in text else f"{text}={_secret(text)}") for text in args.answers
    )
    if args.answers or args.unset:
        answers = change_answers(sysroot, new, args.unset)
    else:
        answers = read_answers(sysroot)
    if args.json:
        emit_json(sorted(answers))
    elif not args.answers and not args.unset:
        for key in sorted(answers):
            show(key)


def _secret(key: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"{key}: ")
    return sys.stdin.readline().rstrip("\n")


def _done(args: argparse.Namespace, name: str, text: str) -> None:
    if args.json:
        emit_json({"name": name})
    say(args, text)
