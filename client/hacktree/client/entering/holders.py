"""Who has an /etc overlay mounted: found in /proc, so that nothing is ever stale."""

import os
import re
from pathlib import Path
from typing import Final

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def find_holder(tag: str) -> tuple[int, str] | None:
    """A process that sees a mount named `tag`, and where it sees it; None if nobody does."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            point = _mount_point(Path("/proc", entry, "mountinfo"), tag)
            if point is not None:
                return int(entry), point
    return None


def _mount_point(mountinfo: Path, tag: str) -> str | None:
    try:
        text = mountinfo.read_text(errors="surrogateescape")
    except OSError:
        # It has ended, or is somebody else's.
        return None
    if tag not in text:
        return None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ")[1] == tag:
            return _OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
    return None
