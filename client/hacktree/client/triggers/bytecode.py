"""Compiled Python files whose source a step changed.

Those of a build are never checked against their source (`common/repository/pyc.py`): Python would
run the old code, whatever a layer or a script made of the source.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from hacktree.client.beneath import resolve_in
from hacktree.client.replay.step import Build, Root, Step
from hacktree.client.replay.xattrs import OPEN_DIRECTORY

_CACHE: Final = "__pycache__"
_UNCHECKED: Final = b"\1\0\0\0"


def drop_stale_bytecode(root: Root) -> int:
    """Delete unchecked bytecode that no step wrote since one changed its source; returns how many.

    Python then compiles the source.
    """
    last = {path: number for number, paths in enumerate(root.written()) for path in paths}
    dropped = 0
    for directory, stems in _changed_modules(last).items():
        cache = root.path / directory / _CACHE
        # A later step may have put a link in the directory's place, which leads anywhere.
        if resolve_in(root.path, os.path.join(directory, _CACHE)) != cache:
            continue
        try:
            place = os.open(cache, OPEN_DIRECTORY)
        except NotADirectoryError:
            continue
        try:
            for name, stem in _compiled(place, stems):
                changed = last[os.path.join(directory, f"{stem}.py")]
                compiled = last.get(os.path.join(directory, _CACHE, name), -1)
                if compiled < changed and _is_unchecked(place, name):
                    os.unlink(name, dir_fd=place)
                    dropped += 1
        finally:
            os.close(place)
    return dropped


def _changed_modules(paths: Collection[str]) -> dict[str, set[str]]:
    """By directory, the names (without .py) of the sources among the paths."""
    found: dict[str, set[str]] = {}
    for path in paths:
        directory, name = os.path.split(path)
        if name.endswith(".py"):
            found.setdefault(directory, set()).add(name.removesuffix(".py"))
    return found


def _compiled(place: int, stems: set[str]) -> Iterator[tuple[str, str]]:
    for name in sorted(os.listdir(place)):
        stem = name.split(".", 1)[0]
        if name.endswith(".pyc") and stem in stems:
            yield name, stem


def _is_unchecked(place: int, name: str) -> bool:
    try:
        file = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place
        )
    except OSError:
        # A link, or what its own mode protects: nothing that a build ships.
        return False
    try:
        return os.read(file, 8)[4:] == _UNCHECKED
    finally:
        os.close(file)


class BytecodeStep(msgspec.Struct, frozen=True):
    """Drops stale bytecode after config scripts; after layers and extensions triggers do."""

    @property
    def name(self) -> str:
        """For people."""
        return "compiled Python"

    @property
    def digest(self) -> bytes:
        """What it does follows from the steps before."""
        return sha256(b"bytecode 1").digest()

    def apply(self, root: Root) -> None:
        """Drop it, and say so."""
        tell_dropped(root, drop_stale_bytecode(root))


def tell_dropped(root: Root, count: int) -> None:
    """Say it, if there was anything."""
    if count:
        root.say(f"compiled Python of changed sources: {count} files dropped")


class BytecodeSource:
    """One step; asked only after config scripts."""

    def steps(self, build: Build) -> Sequence[Step]:
        """For each build the same."""
        return (BytecodeStep(),)
