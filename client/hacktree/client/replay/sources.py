"""The kinds of steps in the order of the replay."""

from collections.abc import Sequence
from typing import Final

from hacktree.client.replay.step import StepSource

SOURCES: Final[Sequence[StepSource]] = ()
"""Users, extensions, layers, triggers, config scripts: each adds itself here in its place."""
