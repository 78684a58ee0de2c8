"""Arguments of `hacktree bisect` report, visualize, export, import and replay.

Apart from what does them, whose imports take longer than all else that another action does.
"""

import argparse

from hacktree.common.errors import UserError


def configure_report(action: argparse.ArgumentParser) -> None:
    """Arguments of `report`."""
    action.description = (
        "Show the first bad build and the last good one, and what changed between them: packages, "
        "source revisions and other metadata, files with the packages that own them. Before the "
        "end of the search: between the two builds that it stands at."
    )
    action.epilog = (
        "With --paths only files that a pattern matches, or that are below one, and the packages "
        "that own them. Patterns are those of layers: * also stands for /. --verbose lists all "
        "files. The HTML page loads nothing and can be mailed; the bug report is Markdown."
    )
    action.add_argument("--paths", metavar="GLOB", action="append", default=[], help="narrow it")
    action.add_argument("--fetch", action="store_true", help="bring builds that are not here")
    _add_qa(action)
    shapes = action.add_mutually_exclusive_group()
    shapes.add_argument("--html", metavar="FILE", help="write a page with the history drawn")
    shapes.add_argument("--bug-report", action="store_true", help="print text for a bug tracker")


def configure_visualize(action: argparse.ArgumentParser) -> None:
    """Arguments of `visualize`."""
    action.description = "Draw the builds that are searched, oldest first, and what is known."
    _add_qa(action)
    action.add_argument("--html", metavar="FILE", help="write a page instead")


def _add_qa(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--qa", action="store_true", help="ask the remote again what the farm's suites said"
    )


def configure_export(action: argparse.ArgumentParser) -> None:
    """Arguments of `export`."""
    action.description = (
        "Write the bisection to a file that `hacktree bisect import` reads elsewhere. It holds the "
        "builds' names, the answers with their notes and the remote's URL; nothing else of this "
        "machine."
    )
    action.add_argument("file", metavar="FILE", help="where to, `-` for standard output")
    action.add_argument("--force", action="store_true", help="replace FILE")


def configure_import(action: argparse.ArgumentParser) -> None:
    """Arguments of `import`."""
    action.description = (
        "Go on with a bisection that somebody exported. Nothing is brought or deployed before "
        "`hacktree bisect next`, which combines builds with the scripts, extensions and layers of "
        "this machine."
    )
    action.add_argument("file", metavar="FILE", help="what was exported, `-` for standard input")
    action.add_argument(
        "--remote", metavar="NAME", help="the remote that has the builds (default: by its URL)"
    )
    action.add_argument(
        "--no-deploy", action="store_true", help="make roots, but leave the live root as it is"
    )
    action.add_argument("--dry-run", "-n", action="store_true", help="only say what it holds")


def configure_replay(action: argparse.ArgumentParser) -> None:
    """Arguments of `replay`."""
    action.description = (
        "Begin with what a log says: its builds are read from the remote, its answers are taken. "
        "Nothing is brought or deployed before `hacktree bisect next`. A line that was wrong can "
        "be changed or deleted before."
    )
    action.add_argument(
        "file", metavar="FILE", help="what `hacktree bisect log` printed, `-` for standard input"
    )
    action.add_argument("--remote", metavar="NAME", help="the remote (default: the log's)")
    action.add_argument(
        "--no-deploy", action="store_true", help="make roots, but leave the live root as it is"
    )
    action.add_argument("--dry-run", "-n", action="store_true", help="only say what it leads to")


def seconds(text: str) -> float:
    """What `--timeout` takes; raises `UserError`."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number <= 1e6:
        raise UserError(f"not a time: {text!r}", hint="Seconds, such as 90 or 2.5.")
    return number
