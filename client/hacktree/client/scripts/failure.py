"""What a person may do when a step of a replay failed: retry, a shell, skip, abort."""

import os
import select
import signal
from collections.abc import Callable
from functools import partial
from typing import Final, TextIO

import msgspec

from hacktree.client.replay.step import (
    AfterFailure,
    AskAfterFailure,
    Root,
    Step,
    StepFailedError,
)
from hacktree.client.scripts.step import ScriptStep
from hacktree.common.objects.names import display_text

_SHELL: Final = ("/bin/sh", "-c", 'exec "$(command -v bash || echo sh)" -i')
_SHOWN_LINES: Final = 20
_SIGNALS: Final = 100
"""Signals of which nothing is to be done, at a time."""


class Console(msgspec.Struct, frozen=True):
    """A terminal; `ask` prompts and reads a line, raising `EOFError` at its end."""

    ask: Callable[[str], str]
    tell: Callable[[str], None]


def ask_on_terminal(stdin: TextIO, stderr: TextIO) -> AskAfterFailure | None:
    """Asks a person there, if both are a terminal; else None: nobody could answer."""
    if not stdin.isatty() or not stderr.isatty():
        return None

    def tell(text: str) -> None:
        stderr.write(display_text(text, keep="\t\n") + "\n")
        stderr.flush()

    def ask(prompt: str) -> str:
        stderr.write(prompt)
        stderr.flush()
        _await_line(stdin)
        line = stdin.readline()
        if not line:
            tell("")
            raise EOFError
        return line

    return partial(ask_after_failure, Console(ask, tell))


def _await_line(stdin: TextIO) -> None:
    """Until a line is there; a signal that arrives on the way to waiting ends that, too.

    Python notes signals and acts on them between its own instructions: Ctrl-C after the last of
    these, and before read(2), would do nothing until the line is there.
    """
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        line = stdin.fileno()
        while line not in select.select([line, woken], [], [])[0]:
            os.read(woken, _SIGNALS)
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(wake)


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


def shown_log(log: str) -> list[str]:
    """The last lines of a step's log, safe to print: a program may say anything."""
    lines = ["| " + display_text(line, keep="\t") for line in log.splitlines()]
    before = len(lines) - _SHOWN_LINES
    return [*([f"| … {before} lines before"] if before > 0 else []), *lines[-_SHOWN_LINES:]]


def _show(console: Console, step: Step, error: StepFailedError) -> None:
    for line in shown_log(error.log):
        console.tell(line)
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
