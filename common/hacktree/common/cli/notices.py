"""What libraries log while a command runs, shown to a person."""

import argparse
import logging
import sys
from typing import Final

from hacktree.common.cli.output import tell

_ERASE: Final = "\r\x1b[K"
"""To the beginning of the line, which is emptied (ECMA-48, CR and EL)."""


def show_notices(args: argparse.Namespace, logger: str) -> None:
    """From now on show what is logged below `logger`, on standard error, unless --quiet."""
    handler = logging.NullHandler() if args.quiet else _Notices()
    logging.getLogger(logger).handlers[:] = [handler]


class _Notices(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(_ERASE)  # A line of progress may stand there.
        tell(record.getMessage())
