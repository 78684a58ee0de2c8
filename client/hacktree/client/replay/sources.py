"""The kinds of steps in the order of the replay."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from hacktree.client.extensions.step import ExtensionSource
from hacktree.client.layers.steps import LayerSource
from hacktree.client.replay.step import Build, Step, StepSource
from hacktree.client.scripts.step import ScriptSource
from hacktree.client.triggers.bytecode import BytecodeSource
from hacktree.client.triggers.step import TriggerSource
from hacktree.client.users.steps import CarrySource, LastSource, UsersSource
from hacktree.common.repository.repository import ObjectMissingError

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
    steps = _steps_but_last(build)
    return [*steps, *_asked(LAST, build)]


def foreseen_steps_of(build: Build) -> list[Step]:
    """`steps_of` a build of which only the trees need be here: without the last if these depend on
    files of it that are not.
    """
    steps = _steps_but_last(build)
    with suppress(ObjectMissingError):
        steps += _asked(LAST, build)
    return steps


def _steps_but_last(build: Build) -> list[Step]:
    scripts = _asked(SCRIPTS, build)
    after = _asked([AFTER_SCRIPTS], build) if scripts else []
    return [*steps_before_scripts(build), *scripts, *after]


def steps_before_scripts(build: Build) -> list[Step]:
    """What config scripts find done.

    Triggers only where something precedes them: a root that nothing changed has no replay.
    """
    before = _asked(BEFORE_TRIGGERS, build)
    return [*before, *(_asked(TRIGGERS, build) if before else ())]


def _asked(sources: Sequence[StepSource], build: Build) -> list[Step]:
    return [step for source in sources for step in source.steps(build)]
