"""The environment of a program in a root: the caller's, without what names the host's programs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hacktree.client.entering.person import Person

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DROPPED: Final = ("SUDO_", "PKEXEC_", "LD_", "PYTHON", "HACKTREE_")
"""What these begin is about the host's programs, or about how hacktree was called."""

_DROPPED_NAMES: Final = frozenset({"VIRTUAL_ENV", "MAIL", "OLDPWD", "PWD", "SHLVL", "_"})


def session_environment(
    caller: Mapping[str, str], person: Person, name: str, run: Path = Path("/run")
) -> dict[str, str]:
    """Variables for `person` in the root `name`.

    sudo drops those that name a desktop session: its sockets are looked for where they belong.
    """
    kept = {
        key: value
        for key, value in caller.items()
        if not key.startswith(_DROPPED) and key not in _DROPPED_NAMES
    }
    kept |= {
        "HOME": person.home,
        "USER": person.name,
        "LOGNAME": person.name,
        "PATH": _PATH,
        "HACKTREE_ENTERED": name,
    }
    runtime = Path(kept.get("XDG_RUNTIME_DIR") or run / f"user/{person.uid}")
    if not _belongs_to(runtime, person.uid):
        # Of whoever called sudo, say: nothing in it would let this user in.
        kept.pop("XDG_RUNTIME_DIR", None)
        return kept
    kept["XDG_RUNTIME_DIR"] = str(runtime)
    if "WAYLAND_DISPLAY" not in kept:
        sockets = sorted(path.name for path in runtime.glob("wayland-?") if path.is_socket())
        if sockets:
            kept["WAYLAND_DISPLAY"] = sockets[0]
    if "DBUS_SESSION_BUS_ADDRESS" not in kept and (runtime / "bus").is_socket():
        kept["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    return kept


def _belongs_to(directory: Path, uid: int) -> bool:
    try:
        return directory.is_dir() and os.stat(directory).st_uid == uid
    except OSError:
        return False
