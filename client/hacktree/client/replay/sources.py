"""The kinds of steps in the order of the replay."""

from collections.abc import Sequence
from typing import Final

from hacktree.client.extensions.step import ExtensionSource
from hacktree.client.layers.steps import LayerSource
from hacktree.client.replay.step import Build, Step, StepSource
from hacktree.client.scripts.step import ScriptSource
from hacktree.client.triggers.bytecode import BytecodeSource
from hacktree.client.triggers.step import TriggerSource
from hacktree.client.users.steps import CarrySource, LastSource, UsersSource

BEFORE_TRIGGERS: Final[Sequence[StepSource]] = (
    UsersSource(),
    ExtensionSource(),
    LayerSource(),
    CarrySource(),
)
"""Users, extensions, layers, carried files: each adds itself here in its place."""

TRIGGERS: Final[Sequence[StepSource]] = (TriggerSource(),)
"""What brings caches up to date with the steps before."""

SCRIPTS: Final[Sequence[StepSource]] = (ScriptSource(),)
"""Config scripts see everything else."""

AFTER_SCRIPTS: Final = BytecodeSource()
"""Repairs what scripts can't know of."""

LAST: Final[Sequence[StepSource]] = (LastSource(),)
"""What holds of every root, whatever the steps did: ids, an empty /home."""


def steps_of(build: Build) -> list[Step]:
    """Everything that this machine wants done to a root of that build, in order.

    Raises `UserError` as `StepSource.steps` does.
    """
    scripts = [step for source in SCRIPTS for step in source.steps(build)]
    after = (AFTER_SCRIPTS, *LAST) if scripts else LAST
    last = [step for source in after for step in source.steps(build)]
    return [*steps_before_scripts(build), *scripts, *last]


def steps_before_scripts(build: Build) -> list[Step]:
    """What config scripts find done.

    Triggers only where something precedes them: a root that nothing changed has no replay.
    """
    before = [step for source in BEFORE_TRIGGERS for step in source.steps(build)]
    triggers = [step for source in TRIGGERS for step in source.steps(build)] if before else []
    return [*before, *triggers]
