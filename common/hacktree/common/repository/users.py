"""Users and groups in a tree: their numbers are baked into shared inodes."""

from collections.abc import Callable
from typing import Final

_FILES: Final = (
    (b"etc/passwd", "user"),
    (b"usr/lib/passwd", "user"),
    (b"etc/group", "group"),
    (b"usr/lib/group", "group"),
)
_MAX_SIZE: Final = 8 << 20

ReadFile = Callable[[bytes, int], bytes | None]


def find_renumbered(old: ReadFile, new: ReadFile) -> list[str]:
    """Names whose uid or gid differs between two trees: 'user messagebus: 104 is now 105'."""
    changes = []
    for path, kind in _FILES:
        before, after = _numbers(old(path, _MAX_SIZE)), _numbers(new(path, _MAX_SIZE))
        changes += [
            f"{kind} {name.decode('utf-8', 'replace')}: {before[name]} is now {number}"
            for name, number in sorted(after.items())
            if name in before and before[name] != number
        ]
    return changes


def _numbers(data: bytes | None) -> dict[bytes, int]:
    """name → number of a passwd or group file; lines that are neither are ignored."""
    numbers = {}
    for line in (data or b"").splitlines():
        fields = line.split(b":")
        if len(fields) >= 3 and fields[0] and fields[2].isdigit():
            numbers[fields[0]] = int(fields[2])
    return numbers
