"""What a root looks like through the layers of a replay, without mounting them."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hacktree.client.replay.upper import is_opaque, is_whiteout


class LayerView(msgspec.Struct, frozen=True):
    """`layers`: directories, topmost first, the checkout last. Paths are relative."""

    layers: Sequence[Path]

    def find(self, path: str) -> Path | None:
        """Where a path's file, link or uppermost directory is; None if the root has nothing there.

        Follows no links.
        """
        return next(iter(self._places(path)), None)

    def names(self, path: str) -> set[str]:
        """The names in a directory."""
        present: set[str] = set()
        hidden: set[str] = set()
        for place in self._places(path):
            if not _is_directory(place):
                break
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name in present or entry.name in hidden:
                        continue
                    gone = is_whiteout(entry.stat(follow_symlinks=False))
                    (hidden if gone else present).add(entry.name)
        return present

    def _places(self, path: str) -> list[Path]:
        """The path in each layer that contributes to it: one, or several of a directory."""
        layers = list(self.layers)
        for part in path.split("/"):
            layers = _below(layers, part)
        return layers


def _below(directories: Sequence[Path], name: str) -> list[Path]:
    """The places of `name` in directories that are merged, topmost first."""
    found: list[Path] = []
    for directory in directories:
        place = directory / name
        try:
            status = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if is_whiteout(status):
            break
        if not _is_directory(place):
            return found or [place]
        found.append(place)
        if is_opaque(os.fspath(place)):
            break
    return found


def _is_directory(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink()
