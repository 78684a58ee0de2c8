"""Steps for tests of the replay: a function, a name and a digest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hacktree.client.deploy import DeployOptions
from hacktree.client.replay.step import AskAfterFailure, Build, Root, Step


@dataclass
class FunctionStep:
    """Calls `function`; its digest is its name and `version`."""

    name: str
    function: Callable[[Root], object]
    version: int = 1

    @property
    def digest(self) -> bytes:
        """Changes with `version`."""
        return f"{self.name} {self.version}".encode()

    def apply(self, root: Root) -> None:
        """Do it."""
        self.function(root)


@dataclass
class Steps:
    """`DeployOptions.steps_of` with a list that a test may change."""

    steps: list[Step] = field(default_factory=list)

    def __call__(self, build: Build) -> Sequence[Step]:
        """The list as it is now."""
        return list(self.steps)


def replaying(*steps: Step, ask: AskAfterFailure | None = None) -> DeployOptions:
    """Options with which a deploy replays these steps."""
    return DeployOptions(steps_of=Steps(list(steps)), ask=ask)


def shell(name: str, script: str, **options: object) -> FunctionStep:
    """A step that runs a script of the host's sh in the root's directory."""
    return FunctionStep(
        name,
        lambda root: root.run(["sh", "-euc", script], inside=False, **options),  # type: ignore[arg-type]
    )
