"""A run that goes on by itself after a reboot: a systemd unit of the machine, for its duration.

It is written before the run begins, and removed when the search has ended or is reset. Whatever
stops the run before that, a shutdown above all, leaves it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hacktree.client.bisect.store import bisection_path
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import UserError
from hacktree.common.repository.durable import (
    make_directories,
    remove_durably,
    swap_symlink,
    sync_directory,
    write_durably,
)

DIRECTORY: Final = Path("etc/systemd/system")
"""Relative to a root, or to the sysroot."""

UNIT: Final = "hacktree-bisect.service"
WANTS: Final = "multi-user.target.wants"
LINK_TARGET: Final = f"../{UNIT}"

_MAX_SIZE: Final = 64 << 10
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=+,@")
_SPECIAL: Final = {"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$", "\n": "\\n", "\t": "\\t"}

_TEXT: Final = """\
# Written by `hacktree bisect run --unattended`; it goes when the bisection ends.
[Unit]
Description=Go on with hacktree bisect
Documentation=man:hacktree-bisect(1)
Wants=network-online.target
After=network-online.target
ConditionPathExists={session}

[Service]
Type=exec
WorkingDirectory=-{directory}
ExecStart={command}
Restart=on-failure
RestartSec=60
RestartPreventExitStatus=1 2 5

[Install]
WantedBy=multi-user.target
"""


class UnitWordError(UserError):
    """A word of the command can't stand in a unit."""


def render_unit(sysroot: Sysroot, command: Sequence[str], directory: str) -> str:
    """The unit that runs `command`, whose first word is a path, in `directory`.

    Raises `UnitWordError`.
    """
    return _TEXT.format(
        session=_path(str(bisection_path(sysroot))),
        directory=_path(directory),
        command=" ".join(quote(word) for word in command),
    )


def quote(word: str) -> str:
    """A word of `ExecStart=` that systemd hands on as it is; raises `UnitWordError`."""
    if word and _PLAIN.issuperset(word):
        return word
    return f'"{_escape(word)}"'


def _escape(word: str) -> str:
    if not all(character.isprintable() or character in _SPECIAL for character in word):
        raise _bad_word(word)
    return "".join(_SPECIAL.get(character, character) for character in word)


def _path(path: str) -> str:
    """A path as other settings take it: to the end of the line, and only `%` is special."""
    if not path.isprintable() or path.strip() != path or path.endswith("\\"):
        raise _bad_word(path)
    return path.replace("%", "%%")


def _bad_word(word: str) -> UnitWordError:
    return UnitWordError(
        f"a systemd unit can't hold {word!r}", hint="Put the command into a script."
    )


def install_unit(sysroot: Sysroot, text: str) -> Path:
    """Write the unit and enable it, durably; returns its path."""
    make_directories(sysroot.path, DIRECTORY / WANTS, mode=0o755)
    directory = sysroot.path / DIRECTORY
    write_durably(directory / UNIT, text.encode(), mode=0o644)
    swap_symlink(directory / WANTS / UNIT, LINK_TARGET)
    return directory / UNIT


def remove_unit(sysroot: Sysroot) -> bool:
    """Disable the unit, then delete it; whether there was one."""
    directory = sysroot.path / DIRECTORY
    if not (directory / UNIT).exists():
        return False
    if os.path.lexists(directory / WANTS / UNIT):
        remove_durably(directory / WANTS / UNIT)
    remove_durably(directory / UNIT)
    sync_directory(directory)
    return True


def read_unit(sysroot: Sysroot) -> str:
    """The unit's text; empty if there is none."""
    try:
        with (sysroot.path / DIRECTORY / UNIT).open("rb") as stream:
            return stream.read(_MAX_SIZE).decode()
    except FileNotFoundError:
        return ""
