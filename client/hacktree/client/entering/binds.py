"""What of the host a session sees: devices, sockets, homes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hacktree.client.entering.filesystem import Bind
from hacktree.client.entering.person import Person

_HOST: Final = ("/dev", "/sys", "/tmp")  # noqa: S108 - the sockets of X11 are there
_SERVICES: Final = (
    "dbus",
    "udev",
    "systemd/resolve",
    "systemd/journal",
    "avahi-daemon",
    "cups",
)
"""Of /run: what programs of a desktop talk to."""


def session_binds(
    person: Person, environment: Mapping[str, str], declared: Sequence[Bind]
) -> list[Bind]:
    """The host's directories, then declared ones, then the person's home if no bind has it."""
    runtime = f"/run/user/{person.uid}"
    names = [*_HOST, *(f"/run/{service}" for service in _SERVICES), runtime]
    chosen = environment.get("XDG_RUNTIME_DIR", "")
    if _is_below(chosen, "/run") and _owner(chosen) == person.uid and chosen != runtime:
        names.append(chosen)
    binds = [Bind(Path(name).resolve(), name) for name in names if Path(name).exists()]
    binds += declared
    home = person.home
    shown = any(home == bind.target or _is_below(home, bind.target) for bind in binds)
    if not shown and home not in ("/", "/root") and Path(home).is_dir():
        binds.append(Bind(Path(home).resolve(), home))
    return binds


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _owner(path: str) -> int | None:
    try:
        return Path(path).stat().st_uid
    except OSError:
        return None
