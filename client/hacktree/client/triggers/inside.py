"""Looking up paths in a root as a program chrooted in it would."""

import os
import stat
from pathlib import Path
from typing import Final

_MAX_LINKS: Final = 40


def resolve_inside(root: Path, path: str) -> Path | None:
    """Where `path`, relative to the root, is on the host once every symbolic link is followed.

    Absolute links and `..` stay in the root. None if there is nothing. The last component of the
    result is no link, nor is any before it: safe as long as nobody else changes the root.
    """
    pending = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        current = root.joinpath(*done, part)
        try:
            mode = os.lstat(current).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISLNK(mode):
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        target = os.readlink(current)
        if target.startswith("/"):
            done = []
        pending += [component for component in target.split("/") if component][::-1]
    return root.joinpath(*done)


def find_program(root: Path, names: tuple[str, ...]) -> str | None:
    """The first of these paths at which the root has an executable file: as "/usr/bin/fc-cache"."""
    for name in names:
        found = resolve_inside(root, name)
        if found is not None and found.is_file() and os.stat(found).st_mode & 0o111:
            return f"/{name}"
    return None


def list_inside(root: Path, path: str) -> list[str]:
    """The names of the directories in a directory of the root, sorted; none if it has none."""
    directory = resolve_inside(root, path)
    if directory is None or not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
