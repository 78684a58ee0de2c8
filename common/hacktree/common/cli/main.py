"""The `hacktree` command: picks the subcommand, imports only that, reports what goes wrong."""

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from hacktree.common.cli.catalog import CommandInfo
from hacktree.common.cli.failures import INTERRUPTED, describe_failure

if TYPE_CHECKING:
    import argparse

USAGE_STATUS: Final = 2
BROKEN_PIPE_STATUS: Final = 141

_VALUE_OPTIONS: Final = ("--repo", "--sysroot")
_GROUPS: Final = (
    ("tester", "On a tester's machine"),
    ("repository", "Repositories"),
    ("farm", "On the build farm"),
)
_INTRO: Final = """\
usage: hacktree [--repo DIR] [--sysroot DIR] [--json] [--quiet] [--verbose] COMMAND ...

Publish whole operating-system trees, pull only what changed, swap roots, roll back.
"""
_OUTRO: Final = """\
Examples:
  hacktree-pull fastqa                       upgrade this machine to the newest fastqa build
  hacktree rollback                          go back to the root before
  hacktree --repo /srv/tree commit builds /var/tmp/build-root
  hacktree diff fastqa~1 fastqa              what changed, files and packages

Exit statuses: 0 done, 1 failed, 2 wrong usage or input, 4 the remote is at fault, 5 local data is
damaged, 6 somebody holds the lock, 7 no space, 8 the system refused, 130 interrupted.
`hacktree COMMAND --help` explains a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    # numpy's linear algebra, which nobody calls, would start a thread for every core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_standard_streams()
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("hacktree: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; nothing may complain at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_STATUS
    except Exception as error:
        failure = describe_failure(error)
        if failure is None or os.environ.get("HACKTREE_TRACEBACK"):
            raise
        from hacktree.common.cli.output import complain

        if "--json" in arguments:
            _report_json(failure.message, failure.hint, failure.exit_code)
        else:
            complain(failure.message, failure.hint)
        return failure.exit_code


def console(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script: as `main`, and then the process ends at once.

    Taking the interpreter apart takes a tenth of a short command's time, to free what the kernel
    frees anyway. Whatever has to be done is done when `main` returns: nothing waits for an exit.
    """
    status = _main_with_room(argv)
    with suppress(OSError):  # Who can't be written to was told so, or is gone.
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _main_with_room(argv: Sequence[str] | None) -> int:
    return main(argv)


# CPython keeps frames in chunks of 16 KiB. Where a loop's calls cross the end of one, each maps and
# unmaps the next: 1,500 times in a pull, a thirtieth of its time. A frame that asks for so many
# words gets a chunk of 512 KiB, with room for what it calls; what isn't touched takes no memory.
_main_with_room.__code__ = _main_with_room.__code__.replace(co_stacksize=33_000)


def _open_standard_streams() -> None:
    """Have /dev/null in the place of a stream that the caller closed: else the next file that is
    opened gets its descriptor, and what this process or a child prints."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w"))  # noqa: SIM115


def _report_json(message: str, hint: str, code: int) -> None:
    from hacktree.common.cli.output import json_text

    document = {"error": {"message": message, "hint": hint, "exit-status": code}}
    print(json_text(document), file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    # Imports leave no garbage: looking for some takes a tenth of their time.
    gc.disable()
    position = command_position(arguments)
    if position is None:
        return _without_command(arguments)
    name = arguments.pop(position)
    commands = load_catalog()
    if name not in commands:
        return _unknown(name, commands)
    info = commands[name]
    rest: list[str] = []
    if info.runs_command and "--" in arguments:
        rest = arguments[arguments.index("--") + 1 :]
        del arguments[arguments.index("--") :]
    parser = build_parser(info)
    module = load_command(info)
    args = parser.parse_args(arguments)
    if info.runs_command:
        args.command = tuple(rest)
    gc.freeze()
    gc.enable()
    return module.run(args)


def command_position(arguments: Sequence[str]) -> int | None:
    """Index of the first word that is neither a global option nor the value of one."""
    skip = False
    for index, word in enumerate(arguments):
        if skip:
            skip = False
        elif word in _VALUE_OPTIONS:
            skip = True
        elif not word.startswith("-"):
            return index
    return None


def load_catalog() -> dict[str, CommandInfo]:
    """Every installed command by name; each portion of the namespace lists its own.

    The portions are found on its path: asking the metadata of every installed package takes longer
    than all else that `--help` does.
    """
    from importlib import import_module

    import hacktree

    commands: dict[str, CommandInfo] = {}
    for place in hacktree.__path__:
        for portion in sorted(os.listdir(place)):
            if os.path.isdir(f"{place}/{portion}/commands"):
                for info in import_module(f"hacktree.{portion}.commands").CATALOG:
                    commands[info.name] = info
    return commands


def load_command(info: CommandInfo) -> "CommandModule":
    """Import the module of a command."""
    from importlib import import_module

    return import_module(info.module)


def build_parser(info: CommandInfo) -> "argparse.ArgumentParser":
    """The whole argument parser of one command, global options included."""
    import argparse

    parser = argparse.ArgumentParser(
        prog=f"hacktree {info.name}",
        description=info.summary + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _configure(parser, info)
    return parser


def build_complete_parser() -> "argparse.ArgumentParser":
    """One parser with every command below it, for shell completion; imports every command."""
    import argparse

    parser = argparse.ArgumentParser(prog="hacktree")
    _add_global_options(parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for info in load_catalog().values():
        _configure(commands.add_parser(info.name, help=info.summary), info)
    return parser


def _configure(parser: "argparse.ArgumentParser", info: CommandInfo) -> None:
    _add_global_options(parser)
    load_command(info).configure(parser)


def _add_global_options(parser: "argparse.ArgumentParser") -> None:
    options = parser.add_argument_group("global options")
    options.add_argument("--repo", metavar="DIR", help="the repository (default: the sysroot's)")
    options.add_argument(
        "--sysroot",
        metavar="DIR",
        default=os.environ.get("HACKTREE_SYSROOT", "/"),
        help="the machine's root, or any directory (default: /)",
    )
    options.add_argument("--json", action="store_true", help="print JSON")
    options.add_argument("--quiet", "-q", action="store_true", help="print only what was asked for")
    options.add_argument("--verbose", "-v", action="store_true", help="print more")


def _without_command(arguments: Sequence[str]) -> int:
    if "--version" in arguments:
        from importlib.metadata import version

        print(f"hacktree {version('hacktree')}")
        return 0
    asked = "--help" in arguments or "-h" in arguments
    print(help_text(), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else USAGE_STATUS


def help_text() -> str:
    """The overview of all commands."""
    commands = load_catalog().values()
    lines = [_INTRO]
    for group, title in _GROUPS:
        members = [info for info in commands if info.group == group]
        if members:
            lines.append(f"{title}:")
            lines += [f"  {info.name:<12} {info.summary}" for info in members]
            lines.append("")
    return "\n".join([*lines, _OUTRO.rstrip()])


def _unknown(name: str, commands: dict[str, CommandInfo]) -> int:
    from difflib import get_close_matches

    from hacktree.common.cli.output import complain

    close = get_close_matches(name, commands, 1)
    meant = f" Did you mean '{close[0]}'?" if close else ""
    complain(f"there is no command '{name}'.{meant}", "`hacktree --help` lists the commands.")
    return USAGE_STATUS


if TYPE_CHECKING:
    from typing import Protocol

    class CommandModule(Protocol):
        """What a command's module defines."""

        def configure(self, parser: argparse.ArgumentParser) -> None:
            """Add arguments, description and epilog."""

        def run(self, args: argparse.Namespace) -> int:
            """Do it; returns the exit status."""
