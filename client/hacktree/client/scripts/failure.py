"""What a person may do when a step of a replay failed: retry, a shell, skip, abort."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hacktree.client.replay.step import AfterFailure, Root, Step, StepFailedError
from hacktree.client.scripts.step import ScriptStep

_SHELL: Final = ("/bin/sh", "-c", 'exec "$(command -v bash || echo sh)" -i')
_SHOWN_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Console:
    """A terminal; `ask` prompts and reads a line, raising `EOFError` at its end."""

    ask: Callable[[str], str]
    tell: Callable[[str], None]


def ask_after_failure(
    console: Console, step: Step, error: StepFailedError, root: Root
) -> AfterFailure:
    """Show what failed and ask until there is an answer; the end of the terminal aborts."""
    # Without a layer, an extension or a user what comes after would fail in stranger ways.
    may_skip = isinstance(step, ScriptStep)
    _show(console, step, error)
    choices = "(r)etry, (s)hell in this root, s(k)ip it this time, (a)bort"
    if not may_skip:
        choices = "(r)etry, (s)hell in this root, (a)bort"
    while True:
        try:
            answer = console.ask(f"{choices}? ").strip().lower()
        except EOFError:
            return AfterFailure.ABORT
        if answer in ("r", "retry"):
            return AfterFailure.RETRY
        if answer in ("k", "skip") and may_skip:
            return AfterFailure.SKIP
        if answer in ("a", "abort"):
            return AfterFailure.ABORT
        if answer in ("s", "shell"):
            _open_shell(console, step, root)


def _show(console: Console, step: Step, error: StepFailedError) -> None:
    lines = error.log.splitlines()
    if len(lines) > _SHOWN_LINES:
        console.tell(f"  … {len(lines) - _SHOWN_LINES} lines before")
    for line in lines[-_SHOWN_LINES:]:
        console.tell(f"  {line}")
    console.tell(f"hacktree: {step.name} failed: {error.message}")
    console.tell("Nothing was swapped.")
    if error.hint:
        console.tell(f"  {error.hint}")


def _open_shell(console: Console, step: Step, root: Root) -> None:
    console.tell(
        f"A shell in the root as {step.name} left it; what you change there is thrown away. "
        "Leave it with `exit`."
    )
    status = root.shell(_SHELL)
    if status != 0:
        console.tell(f"The shell ended with {status}.")
