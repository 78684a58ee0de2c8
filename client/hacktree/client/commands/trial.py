"""`hacktree try`."""

import argparse
import os
import sys
import time
from pathlib import Path

from hacktree.client.entering.enter import Request, enter_root
from hacktree.client.entering.filesystem import Writes
from hacktree.client.entering.person import requested_person
from hacktree.client.layers.trying import trial_of
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import complain, tell, warn
from hacktree.common.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.usage = "hacktree try [options] DIR [-- COMMAND ...]"
    parser.description = (
        "Run a shell or a program in the live root with what DIR holds on top of it, as `make "
        "install DESTDIR=DIR` leaves it. Nothing is deployed: when the command ends, all of it is "
        "thrown away."
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--user", metavar="NAME", help="as somebody else (as root only)")
    parser.epilog = """\
Files of DIR replace those of the root, of layers too; caches such as that of ld.so are brought up
to date. Libraries that don't fit are warned of. The rest is as with `hacktree enter --scratch`:
your home, the desktop's sockets and the network are there, all else that is written goes. What
DIR has in /var is not seen. `hacktree layer add` makes it part of every root.

Examples:
  make -C ~/src/mesa/build install DESTDIR=$HOME/mesa
  sudo hacktree try ~/mesa
  sudo hacktree try ~/mesa -- glxinfo -B

Exit statuses: that of the command, 128 + n if signal n ended it, 126 it can't be run, 127 it is
not in the root; before it started: 1 a cache can't be brought up to date, 2 no root is live, or
DIR can't be laid over it, 6 somebody deploys, 7 no space, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Lay, enter, throw away; passes the exit status through."""
    directory = Path(args.directory)
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory", hint="A command follows --.")
    person = requested_person(args.user, os.environ)
    sysroot = open_sysroot(Path(args.sysroot))

    def report(line: str) -> None:
        # Standard output is the command's.
        if "warning: " in line:
            warn(line.strip().removeprefix("warning: "))
        elif args.verbose:
            tell(line)

    with trial_of(sysroot, directory, int(time.time()), report) as trial:
        if not args.command and sys.stdin.isatty() and not args.quiet:
            tell(f"in {trial.root} with {directory}; `exit` leaves it")
        sys.stdout.flush()
        request = Request(
            args.command,
            person,
            dict(os.environ),
            Writes.THROWN_AWAY,
            above=trial.uppers,
            waiting=None if args.quiet else complain,
        )
        return enter_root(sysroot, trial.root, request)
