"""What commands that talk to a server take: the token, and where to remember what was signed."""

import os
from pathlib import Path
from typing import Final

from hacktree.common.cli.output import warn
from hacktree.common.errors import UserError
from hacktree.common.loopback import is_loopback

_MAX_SECRET: Final = 4096


def read_secret(token_file: str | None, server: str) -> str:
    """The token's secret, from `--token-file` or $HACKTREE_TOKEN, to be sent to a URL.

    Warns where others can read it on its way. Raises `UserError`, `OSError`.
    """
    if token_file is None:
        secret = os.environ.get("HACKTREE_TOKEN", "")
    else:
        with open(token_file, encoding="ascii", errors="replace") as stream:
            secret = stream.read(_MAX_SECRET)
    secret = secret.strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise UserError(
            "the server needs a token", hint="--token-file FILE, or the variable HACKTREE_TOKEN."
        )
    if server.startswith("http:") and not is_loopback(server):
        warn("without https the token can be read on its way")
    return secret


def state_directory(chosen: str | None) -> Path:
    """`--state`, else a service's $STATE_DIRECTORY, else the user's; it may not be there yet."""
    for path in (chosen, os.environ.get("STATE_DIRECTORY", "").partition(":")[0]):
        if path:
            return Path(path)
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "hacktree"
