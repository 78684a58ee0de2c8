"""All triggers as one step of a replay.

One step, not one for each: none of them works on what another made, most have nothing to do, and
a step costs a mount, a layer and an entry in the cache.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from hacktree.client.beneath import has_program
from hacktree.client.replay.step import Build, Root, Step, StepFailedError
from hacktree.client.triggers.bytecode import drop_stale_bytecode, tell_dropped
from hacktree.client.triggers.catalog import TRIGGERS

_VERSION: Final = b"triggers 2"
_SECONDS: Final = 300.0

_ENVIRONMENT: Final = {"PKGSYSTEM_ENABLE_FSYNC": "0"}
"""The whole root is synced later. No SOURCE_DATE_EPOCH: fontconfig would note it as the mtime of
directories, and whoever looks at them without it would take the cache for stale.
"""


class TriggerStep(msgspec.Struct, frozen=True):
    """Runs the root's own programs for the caches whose inputs an earlier step touched.

    `time` is the commit's: directories have it as their mtime, which font caches note.
    """

    time: int

    @property
    def name(self) -> str:
        """For people."""
        return "triggers"

    @property
    def digest(self) -> bytes:
        """What triggers do follows from the root and the steps before."""
        return sha256(b"%b\0%d" % (_VERSION, self.time)).digest()

    def apply(self, root: Root) -> None:
        """Run them; raises `StepFailedError` that names the trigger."""
        tell_dropped(root, drop_stale_bytecode(root))
        for trigger in TRIGGERS:
            paths = (f"/{path}" for path in trigger.programs(root))
            program = next((path for path in paths if has_program(root.path, path)), None)
            if program is None:
                continue
            for arguments in trigger.arguments(root):
                root.say(" ".join([trigger.name, *arguments]))
                try:
                    root.run([program, *arguments], environment=_ENVIRONMENT, seconds=_SECONDS)
                except StepFailedError as error:
                    raise StepFailedError(
                        f"{trigger.name}: {error.message}",
                        hint="It takes no part of what a layer or an extension put into the root.",
                        log=error.log,
                    ) from error


class TriggerSource:
    """The one step that there is."""

    def steps(self, build: Build) -> Sequence[Step]:
        """For each build the same; asked only when other steps come before."""
        return (TriggerStep(build.commit.time),)
