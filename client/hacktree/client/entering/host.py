"""Finding the host's own file system from within a booted root."""

import os
from pathlib import Path
from typing import Final

from hacktree.common.errors import UserError

ANNOUNCED: Final = Path("/run/hacktree/sysroot")
"""Where whoever boots a root leaves the sysroot, which is the host's `/`: a mount, or a link."""


class HostMissingError(UserError):
    """There is no host to go to."""


def find_host_system(sysroot: Path) -> Path:
    """The host's root directory: the sysroot, if it is not `/`, else what the boot announced."""
    place = (ANNOUNCED if sysroot == Path("/") else sysroot).resolve()
    if not place.is_dir():
        raise HostMissingError(
            f"there is no {place}: this is no booted root",
            hint="Name the directory that holds the host's system: --sysroot DIR.",
        )
    if os.path.samefile(place, "/"):
        raise HostMissingError(
            "this is the host already", hint="`hacktree enter ROOT` goes the other way."
        )
    if not (place / "usr").is_dir():
        raise HostMissingError(
            f"{place} holds no system: it has no usr",
            hint="Name the directory that holds the host's system: --sysroot DIR.",
        )
    return place
