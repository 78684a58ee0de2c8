"""Bringing a mixture's caches up to date: they are of one build, what they tell of is of two."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from hashlib import sha256
from pathlib import Path

from hacktree.client.replay.step import Build, Root
from hacktree.client.triggers.step import TriggerStep


@dataclass(frozen=True, slots=True)
class RegenerateStep:
    """Runs the triggers as if a step had written `paths` (relative): those that the mixture has
    from another build than what no package owns, which caches are part of.
    """

    paths: tuple[str, ...]
    time: int

    @property
    def name(self) -> str:
        """For people."""
        return "mixed packages"

    @property
    def digest(self) -> bytes:
        """What it does follows from the tree, the paths and what triggers do."""
        whole = sha256("\0".join(self.paths).encode(errors="surrogateescape"))
        return sha256(b"mixed 1" + TriggerStep(self.time).digest + whole.digest()).digest()

    def apply(self, root: Root) -> None:
        """Run them; raises `StepFailedError` that names the trigger."""
        TriggerStep(self.time).apply(_Touched(root, self.paths))


def paths_of(paths: Iterable[bytes]) -> tuple[str, ...]:
    """As `RegenerateStep` takes them."""
    return tuple(sorted(map(os.fsdecode, paths)))


class _Touched:
    """The root, in which the paths count as written by a step before."""

    def __init__(self, root: Root, paths: Sequence[str]) -> None:
        self._root = root
        self._paths = paths
        self.path: Path = root.path
        self.build: Build = root.build

    def touched(self, patterns: Iterable[str]) -> bool:
        """As `Root.touched`."""
        matches = re.compile("|".join(map(translate, patterns)) or r"(?!)").match
        return any(map(matches, self._paths))

    def written(self) -> Sequence[Collection[str]]:
        """As `Root.written`."""
        return [self._paths]

    def run(
        self,
        command: Sequence[str],
        *,
        inside: bool = True,
        environment: Mapping[str, str] | None = None,
        seconds: float = 300.0,
        network: bool = False,
    ) -> str:
        """As `Root.run`."""
        return self._root.run(
            command, inside=inside, environment=environment, seconds=seconds, network=network
        )

    def shell(self, command: Sequence[str]) -> int:
        """As `Root.shell`."""
        return self._root.shell(command)

    def say(self, line: str) -> None:
        """As `Root.say`."""
        self._root.say(line)
