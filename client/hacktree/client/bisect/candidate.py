"""What a root under test tells whoever logs in to it: a step of its replay, and nothing else.

It is the root's own file: with the root it goes. A root that has it is one of a bisection, and is
never taken for the root that a deploy of the same build would make.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from hacktree.client.beneath import Attributes, replace_file, replace_link
from hacktree.client.bisect.core.model import Candidate, Terms
from hacktree.client.bisect.unattended import DIRECTORY, LINK_TARGET, UNIT, WANTS
from hacktree.client.replay.replay import StepsOf
from hacktree.client.replay.step import Build, Root, Step

MESSAGE_PATH: Final = "etc/profile.d/zz-hacktree-bisect.sh"
"""Relative to the root. Shells that people log in with read what is in this directory."""

STEP: Final = "message of the bisection"
_VERSION: Final = b"bisection 1"
_END: Final = "HACKTREE_BISECT_END"
_FILE: Final = Attributes(0o644, None)


class MessageStep(msgspec.Struct, frozen=True):
    """Leaves the message in the root, and the unit that goes on with a run, if there is one."""

    script: str
    unit: str = ""
    name: str = STEP

    @property
    def digest(self) -> bytes:
        """As `Step.digest`."""
        whole = f"{self.script}\0{self.unit}"
        return sha256(_VERSION + whole.encode()).digest()

    def apply(self, root: Root) -> None:
        """As `Step.apply`."""
        replace_file(root.path, MESSAGE_PATH, self.script.encode(), _FILE)
        if self.unit:
            replace_file(root.path, f"{DIRECTORY}/{UNIT}", self.unit.encode(), _FILE)
            replace_link(root.path, f"{DIRECTORY}/{WANTS}/{UNIT}", LINK_TARGET)


def with_message(steps_of: StepsOf, candidate: Candidate, terms: Terms, unit: str = "") -> StepsOf:
    """The machine's steps and, behind them, the message that this is a build under test."""

    def steps(build: Build) -> Sequence[Step]:
        return [*steps_of(build), MessageStep(message_script(candidate, terms), unit)]

    return steps


def how_to_answer(terms: Terms) -> str:
    """What to type: 'hacktree bisect good, bad or skip'."""
    word = "" if terms == Terms() else "answer "
    return f"hacktree bisect {word}{terms.good}, {terms.bad} or skip"


def message_script(candidate: Candidate, terms: Terms) -> str:
    """A file of profile.d that prints the message in interactive shells; it runs nothing else."""
    version = "".join(
        character if character.isprintable() and character.isascii() else "?"
        for character in candidate.version[:100]
    )
    called = f"{version} " if version else ""
    lines = [
        "# Made by `hacktree bisect`, in this root only.",
        'case "$-" in *i*) cat <<\'' + _END + "'",
        f"This is build {called}({candidate.branch} {candidate.sequence}, "
        f"{candidate.commit[:9]}), under test: a bisection is going on.",
        f"How is it? {how_to_answer(terms)}; `hacktree bisect status` says where you are.",
        _END,
        ";; esac",
        "",
    ]
    return "\n".join(lines)
