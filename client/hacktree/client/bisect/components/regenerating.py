"""Bringing a mixture's caches up to date: they are of one build, what they tell of is of two."""

import os
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from hacktree.client.replay.step import Root
from hacktree.client.triggers.step import TriggerStep


class RegenerateStep(msgspec.Struct, frozen=True):
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
        TriggerStep(self.time).apply(root.having_written(self.paths))


def paths_of(paths: Iterable[bytes]) -> tuple[str, ...]:
    """As `RegenerateStep` takes them."""
    return tuple(sorted(map(os.fsdecode, paths)))
