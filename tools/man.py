"""Writes the manual pages: hacktree.1 and one page per command, from the commands' own parsers.

Usage: python tools/man.py DIRECTORY
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from argparse_manpage.manpage import Manpage

from hacktree.common.cli.catalog import CommandInfo
from hacktree.common.cli.main import build_parser, help_text, load_catalog

PROJECT: Final = "hacktree"
OVERVIEW: Final = "versioned, bootable file system trees"


def overview_page(commands: list[CommandInfo]) -> str:
    """`hacktree.1`: what `hacktree --help` prints, and where each command is described."""
    others = ", ".join(f".BR {PROJECT}-{info.name} (1)" for info in commands)
    return "\n".join(
        [
            _title(PROJECT),
            ".SH NAME",
            f"{PROJECT} \\- {OVERVIEW}",
            ".SH DESCRIPTION",
            ".nf",
            *(_literal(line) for line in help_text().splitlines()),
            ".fi",
            ".SH SEE ALSO",
            others.replace(", ", " ,\n"),
            "",
        ]
    )


def command_page(info: CommandInfo) -> str:
    """`hacktree-NAME.1`."""
    parser = build_parser(info)
    epilog, parser.epilog = parser.epilog or "", None
    parser.man_short_description = info.summary  # type: ignore[attr-defined]
    lines = str(Manpage(parser, _page_data(info))).rstrip("\n").splitlines()
    title = next(index for index, line in enumerate(lines) if line.startswith(".TH "))
    # Its own title line doesn't quote a command of two words.
    lines[title] = _title(f"{PROJECT}-{info.name}")
    return "\n".join([*lines, *_notes(epilog), ""])


def _title(name: str) -> str:
    return f'.TH "{name.upper()}" "1" "" "{PROJECT}" "User Commands"'


def _page_data(info: CommandInfo) -> dict[str, object]:
    return {
        "project_name": f"{PROJECT}-{info.name}",
        "prog": f"{PROJECT} {info.name}",
        "manual_title": "User Commands",
        "manual_section": 1,
    }


def _notes(epilog: str) -> list[str]:
    """The epilog's paragraphs under `Heading:`, of one or two words, as sections; text as it is."""
    lines: list[str] = []
    for line in epilog.splitlines():
        heading = re.fullmatch(r"([A-Za-z]{4,}(?: [a-z]+)?):(?: (.*))?", line)
        if heading:
            lines += [".fi"] if lines else []
            lines += [f'.SH "{heading[1].upper()}"', ".nf"]
            lines += [_literal(heading[2])] if heading[2] else []
        else:
            lines.append(_literal(line))
    return [*lines, ".fi"] if lines else []


def _literal(line: str) -> str:
    """A line of text that troff prints as it stands."""
    return "\\&" + line.replace("\\", "\\e").replace("-", "\\-")


def main() -> int:
    """Write every page."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("directory", type=Path)
    directory: Path = arguments.parse_args().directory
    commands = sorted(load_catalog().values(), key=lambda info: info.name)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{PROJECT}.1").write_text(overview_page(commands))
    for info in commands:
        (directory / f"{PROJECT}-{info.name}.1").write_text(command_page(info))
    print(f"{len(commands) + 1} pages in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
