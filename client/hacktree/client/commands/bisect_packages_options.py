"""The options of `hacktree bisect packages`."""

import argparse

from hacktree.client.commands.bisect_options import seconds


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "hacktree bisect packages [options] [GOOD BAD] --run CMD [ARG ...]"
    parser.description = """\
Find which package broke it: roots are made of the files of GOOD in which some packages are those of
BAD, CMD is run in each, and the packages are narrowed down until none can be left out. Both builds
must hold dpkg's or rpm's database. Nothing is deployed."""
    parser.add_argument(
        "good", metavar="GOOD", nargs="?",
        help="a build in which CMD passes (default: both as the bisection has found them)",
    )  # fmt: skip
    parser.add_argument("bad", metavar="BAD", nargs="?", help="a build in which it fails")
    parser.add_argument(
        "--run", metavar="CMD", nargs=argparse.REMAINDER, default=[],
        help="the test, with its arguments; comes last",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds,
        help="CMD fails if it takes longer (default: as long as it takes)",
    )  # fmt: skip
    parser.add_argument("--host", action="store_true", help="run CMD on this machine")
    parser.add_argument("--user", metavar="NAME", help="run CMD as somebody else (as root only)")
    parser.add_argument(
        "--allow-architecture", action="store_true", help="builds for another kind of machine, too"
    )
    parser.add_argument(
        "--dry-run", action="store_true",
        help="show what differs, what comes only together, and about how many tests it takes",
    )  # fmt: skip
    parser.add_argument(
        "--forget", action="store_true", help="drop what an earlier search found, then begin anew"
    )
    parser.epilog = """\
CMD runs in the root, as with `hacktree enter --scratch`: your home, /tmp and the desktop's sockets
are there, what it writes elsewhere is thrown away. /etc and /var are the builds' own. Exit status 0
says that it works, 125 that this can't be said, 1 to 127 that it is broken; 128 and above, or a
signal, stops the search. HACKTREE_ROOT, HACKTREE_BUILD, HACKTREE_BRANCH and
HACKTREE_PREVIOUS_VERDICT are in its environment.

Packages of one source come together; a package comes after those that it needs in this version.
Files that no package owns count as one package. rpm's database is written with this machine's rpm;
where that can't, mixed roots keep the one of GOOD, and it is said. This machine's scripts,
extensions and layers are applied to each root alike.

Builds are named as for `deploy` if they are here, or current or previous; else BRANCH~N or
BRANCH@VERSION, and brought from the remote. Without names they are those that a bisection found.

Each answer is kept: the same command goes on where an earlier one was stopped.

Examples:
  sudo hacktree bisect packages --run /usr/bin/gst-inspect-1.0 vah264dec
  hacktree bisect packages fastqa~1 fastqa --dry-run
  sudo hacktree bisect packages fastqa~1 fastqa --run ~/check-login.sh
  sudo hacktree bisect packages previous current --timeout 60 --run gnome-shell --version
  sudo hacktree bisect packages --forget

Exit statuses: 0 found, 1 CMD was aborted or a root can't be made, 2 there is no such build, it
holds no package database, GOOD doesn't pass or BAD doesn't fail, 5 a package database is damaged, 6
another search is running, 7 no space, 8 the system refused, or rpm is missing here."""
