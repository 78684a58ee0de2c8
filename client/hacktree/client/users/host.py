"""The machine that roots are made for: where its `etc` is, and what the roots take from it.

That is the sysroot's own: a booted root's /etc is the build's. Of a sysroot elsewhere, `host` in
client.toml names the machine; without, a directory that has no etc/passwd is no machine's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hacktree.client.sysroot import Sysroot
from hacktree.client.users.accounts import FILES, MAX_FILE
from hacktree.client.users.people import People, choose_people
from hacktree.common.errors import SystemFault, UserError

_SECRET: Final = ("shadow", "gshadow")


def find_host(sysroot: Sysroot) -> Path | None:
    """The directory whose `etc` is the machine's, or None; `UserError` if `host` names another."""
    configured = sysroot.config.host
    host = Path(configured or sysroot.path)
    if (host / "etc/passwd").is_file():
        return host
    if not configured:
        return None
    raise UserError(
        f"{host} is no machine's root: it has no etc/passwd",
        hint='Set `host` in client.toml to a directory that has one, as "/".',
    )


def read_people(host: Path, sysroot: Sysroot) -> People:
    """Who comes into the roots. Raises `SystemFault`, naming a file that can't be read."""
    users = sysroot.config.users
    login_defs = _read(host / "etc/login.defs") or b""
    return choose_people(read_account_files(host), login_defs, users.names, users.groups)


def read_account_files(host: Path) -> Mapping[str, bytes | None]:
    """The machine's account files; None for one that is absent or secret."""
    return {name: _read(host / "etc" / name) for name in FILES}


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    except PermissionError:
        if path.name in _SECRET:
            return None
        raise
    if len(data) > MAX_FILE:
        raise SystemFault(
            f"{path} has more than {MAX_FILE >> 20} MiB", hint="Nobody has that many users."
        )
    return data
