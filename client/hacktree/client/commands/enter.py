"""`hacktree enter`."""

import argparse
import os
import sys
from pathlib import Path

from hacktree.client.entering.enter import Request, enter_host, enter_root
from hacktree.client.entering.filesystem import Writes
from hacktree.client.entering.host import find_host_system
from hacktree.client.entering.person import requested_person
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import complain, say
from hacktree.common.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.usage = "hacktree enter [options] [ROOT] [-- COMMAND ...]"
    parser.description = (
        "Run a shell or a program in a root, as yourself, with your home, /tmp, the desktop's "
        "sockets, devices and network. The root's own files can't be written; /etc is the root's "
        "and keeps what you write, /var is shared by all roots."
    )
    parser.add_argument(
        "root", metavar="ROOT", nargs="?",
        help="a root's name, the beginning of it, current or previous (default: current)",
    )  # fmt: skip
    parser.add_argument(
        "--scratch", action="store_true",
        help="let everything of the root be written, in memory, and thrown away at the end",
    )  # fmt: skip
    parser.add_argument(
        "--host", action="store_true", help="from a booted root, enter the host's own system"
    )
    parser.add_argument("--user", metavar="NAME", help="as somebody else (as root only)")
    parser.epilog = """\
Under sudo or pkexec the program runs as whoever called that, else as the user of this process.
Without root it works where the kernel lets users make namespaces, in a sysroot of your own.

No deploy or cleanup deletes a root that somebody is in. When the command ends, so does everything
that it left running. What you changed in /etc: `hacktree config diff`.

Examples:
  sudo hacktree enter
  sudo hacktree enter previous -- gnome-shell --version
  sudo hacktree enter --scratch -- make -C ~/src/mesa/build install
  sudo hacktree enter --user root gnomeos-3f9c21ab7.1
  hacktree enter --host -- evince report.pdf

Exit statuses: that of the command, 128 + n if signal n ended it, 126 it can't be run, 127 it is not
in the root; before it started: 2 there is no such root or user, 6 the root is being deleted,
or another session keeps this one waiting, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Enter, wait, pass the exit status through."""
    person = requested_person(args.user, os.environ)
    writes = Writes.THROWN_AWAY if args.scratch else Writes.REFUSED
    waiting = None if args.quiet else complain
    request = Request(args.command, person, dict(os.environ), writes, waiting=waiting)
    sys.stdout.flush()
    if args.host:
        if args.root is not None:
            raise UserError("--host takes no ROOT", hint="hacktree enter --host -- COMMAND")
        return enter_host(find_host_system(Path(args.sysroot)), request)
    sysroot = open_sysroot(Path(args.sysroot))
    name = read_roots(sysroot).find(args.root or "current").root
    if not args.command and sys.stdin.isatty():
        say(args, f"in {name}; `exit` leaves it")
        sys.stdout.flush()
    return enter_root(sysroot, name, request)
