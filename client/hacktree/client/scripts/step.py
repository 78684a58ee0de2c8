"""A config script as a step of a replay."""

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from hacktree.client.beneath import make_directory
from hacktree.client.replay.step import Build, Root, Step, StepFailedError
from hacktree.client.scripts.answers import read_answers, render_answers
from hacktree.client.scripts.store import Script, enabled_scripts
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.durable import write_all

_VERSION: Final = b"script 1"
_PLACE: Final = "run/hacktree"
"""In the root: where a script and its answers are while it runs; no part of the root."""

_ANSWERS: Final = "answers.env"


class ScriptStep(msgspec.Struct, frozen=True):
    """Runs one script in a root of `build`. `answers` is the answer file that it gets.

    With a `salt` no cache knows it: a trial is for seeing it run.
    """

    script: Script
    answers: bytes
    build: ObjectId
    salt: bytes = b""

    @property
    def name(self) -> str:
        """For people."""
        return f"script {self.script.name}"

    @property
    def digest(self) -> bytes:
        """Covers name, content (and so the declarations in it), mode, answers and the commit.

        Commits of one tree differ in what the script is told. The root that is live does not count:
        with it no deploy would have nothing to do.
        """
        told = sha256(self.answers).digest() + self.build + self.salt
        return sha256(script_digest(self.script) + told).digest()

    def apply(self, root: Root) -> None:
        """Run it, chrooted, within its limits."""
        # Where /run is a link in the build, it is not the replay's own and leads anywhere.
        with make_directory(root.path, _PLACE) as place:
            _put(place, self.script.name, self.script.content, self.script.mode)
            _put(place, _ANSWERS, self.answers, 0o400)
            self._run(root)
            # After a failure they stay: a person in that root may want to run the script again.
            os.unlink(self.script.name, dir_fd=place)
            os.unlink(_ANSWERS, dir_fd=place)

    def _run(self, root: Root) -> None:
        declared = self.script.declarations
        try:
            root.run(
                [f"/{_PLACE}/{self.script.name}"],
                environment={
                    "HACKTREE_ANSWERS": f"/{_PLACE}/{_ANSWERS}",
                    "SOURCE_DATE_EPOCH": str(root.build.commit.time),
                },
                seconds=declared.limit,
                network=declared.network,
            )
        except StepFailedError as error:
            name = self.script.name
            raise StepFailedError(
                error.message,
                hint=f"`hacktree config test {name}` runs it on a root that is thrown away; "
                f"`hacktree config disable {name}` leaves it out.",
                log=error.log,
            ) from error


def script_digest(script: Script) -> bytes:
    """Covers all that is the script's own."""
    head = b"%b\0%b\0%o\0" % (_VERSION, script.name.encode(), script.mode)
    return sha256(head + script.content).digest()


def _put(place: int, name: str, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=place)
    try:
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


class ScriptSource:
    """The scripts that are enabled."""

    def steps(self, build: Build) -> Sequence[Step]:
        """One for each, in the order of their names."""
        top = build.sysroot.path
        scripts = enabled_scripts(top)
        if not scripts:
            return ()
        answers = render_answers(read_answers(top))
        return [ScriptStep(script, answers, build.id) for script in scripts]
