"""Who has an /etc overlay mounted: found in /proc, so that nothing is ever stale.

Its name is no secret, and anybody may give it to a mount of theirs: with a user namespace, or FUSE.
So only processes of this user count, and only overlays.
"""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Holder(msgspec.Struct, frozen=True):
    """Descriptors of a session's mount and user namespaces and of its root; `etc`: where in that
    its /etc is mounted. While they are open its mounts stay.
    """

    mounts: int
    users: int
    root: int
    etc: str

    def close(self) -> None:
        """Let go of it."""
        for descriptor in (self.mounts, self.users, self.root):
            os.close(descriptor)


def open_holder(tag: str) -> Holder | None:
    """A session of this user that sees an overlay named `tag`; None if there is none."""
    while True:
        found = find_holder(tag)
        if found is None:
            return None
        process, place = found
        descriptors: list[int] = []
        try:
            for name in ("ns/mnt", "ns/user", "root"):
                descriptors.append(os.open(f"/proc/{process}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except (FileNotFoundError, ProcessLookupError):
            # It has ended meanwhile; perhaps another has it, too.
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        mounts, users, root = descriptors
        return Holder(mounts, users, root, place)


def find_holder(tag: str) -> tuple[int, str] | None:
    """A process of this user that sees an overlay named `tag`, and where; None if none does."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            point = _mount_point(Path("/proc", entry), tag)
            if point is not None:
                return int(entry), point
    return None


def _mount_point(process: Path, tag: str) -> str | None:
    try:
        # The directory's owner is the effective user, whatever else of the process may be read.
        if process.stat().st_uid != os.geteuid():
            return None
        text = (process / "mountinfo").read_text(errors="surrogateescape")
    except OSError:
        # It has ended.
        return None
    if tag not in text:
        return None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ")[:2] == ["overlay", tag]:
            return _OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
    return None
