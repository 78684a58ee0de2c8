"""Applying one step in its namespaces: what runs inside, and what it tells the process outside."""

import os
import re
import signal
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import translate
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.client.replay.mounts import make_private
from hacktree.client.replay.namespaces import NamespaceRefusedError, Send, kill_all_others
from hacktree.client.replay.overlay import (
    PREVIOUS,
    Layers,
    mount_inside,
    mount_overlay,
    unmount_all,
)
from hacktree.client.replay.programs import (
    Program,
    clean_environment,
    run_on_terminal,
    run_program,
)
from hacktree.client.replay.step import (
    AfterFailure,
    AskAfterFailure,
    Build,
    Step,
    StepFailedError,
)
from hacktree.client.replay.upper import seal, written_paths
from hacktree.common.errors import HacktreeError
from hacktree.common.repository.durable import write_all

_MAX_TEXT: Final = 64 << 10


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A line for the person who deploys."""

    line: str


class Applied(msgspec.Struct, frozen=True, tag="applied"):
    """The step went well and its layer is sealed."""

    sockets: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The step failed; `error` is the errno of an `OSError`, `bug` a traceback.

    `refused`: the kernel did not even let it begin.
    """

    message: str
    hint: str = ""
    log: str = ""
    error: int = 0
    filename: str = ""
    bug: str = ""
    refused: bool = False
    decision: str = AfterFailure.ABORT.value


Message = Said | Applied | Failed
_decoder: Final = msgspec.msgpack.Decoder[Message](Message)


def decode_message(data: bytes) -> Message:
    """A message from inside; raises `msgspec.MsgspecError`."""
    message: Message = _decoder.decode(data)
    return message


class Task(msgspec.Struct, frozen=True):
    """One step to apply; `earlier` are the layers of those before it, `log` an open descriptor."""

    step: Step
    build: Build
    layers: Layers
    earlier: Sequence[Path]
    log: int
    ask: AskAfterFailure | None = None


class OverlayRoot(msgspec.Struct):
    """`Root` over a mounted overlay."""

    path: Path
    build: Build
    _task: Task
    _send: Callable[[Message], None]
    _written: list[list[str]] | None = msgspec.field(default=None)

    def touched(self, patterns: Iterable[str]) -> bool:
        """As `Root.touched`."""
        # One expression for all: a step may have written tens of thousands of paths.
        matches = re.compile("|".join(map(translate, patterns)) or r"(?!)").match
        return any(matches(path) for paths in self.written() for path in paths)

    def written(self) -> Sequence[Collection[str]]:
        """As `Root.written`."""
        if self._written is None:
            self._written = [list(written_paths(upper)) for upper in self._task.earlier]
        return self._written

    def having_written(self, paths: Collection[str]) -> "OverlayRoot":
        """As `Root.having_written`."""
        return replace(self, _written=[list(paths)])

    def run(
        self,
        command: Sequence[str],
        *,
        inside: bool = True,
        environment: Mapping[str, str] | None = None,
        seconds: float = 300.0,
        network: bool = False,
    ) -> str:
        """As `Root.run`."""
        program = self._program(
            command, inside=inside, environment=environment, seconds=seconds, network=network
        )
        return run_program(program, self._task.log)

    def shell(self, command: Sequence[str]) -> int:
        """As `Root.shell`."""
        program = self._program(
            command, inside=True, environment=None, seconds=float("inf"), network=True
        )
        status = run_on_terminal(program)
        take_terminal()
        return status

    def say(self, line: str) -> None:
        """As `Root.say`."""
        write_all(self._task.log, f"{line}\n".encode(errors="surrogateescape"))
        self._send(Said(_bounded(line)))

    def _program(
        self,
        command: Sequence[str],
        *,
        inside: bool,
        environment: Mapping[str, str] | None,
        seconds: float,
        network: bool,
    ) -> Program:
        build = self.build
        seen = Path("/") if inside else self.path
        variables = {
            **clean_environment(),
            "HACKTREE_ROOT": str(seen),
            "HACKTREE_BUILD": build.id.hex(),
            "HACKTREE_BRANCH": build.commit.branch,
        }
        if build.previous is not None and (self.path / PREVIOUS).is_dir():
            variables["HACKTREE_PREVIOUS_ROOT"] = str(seen / PREVIOUS)
        variables.update(environment or {})
        root = self.path if inside else None
        return Program(command, variables, root, self.path, seconds, network)


def apply_inside(task: Task, send_bytes: Send) -> None:
    """Mount, apply, unmount, seal. Sends lines, then exactly one `Applied` or `Failed`."""

    def send(message: Message) -> None:
        send_bytes(msgspec.msgpack.encode(message))

    root = OverlayRoot(task.layers.merged, task.build, task, send)
    failure = _mount(task) or _apply(task, root)
    if failure is not None:
        send(failure)
        return
    kill_all_others()
    try:
        unmount_all(task.layers)
        sockets = seal(task.layers.upper)
    except (HacktreeError, OSError) as error:
        send(describe_error(error))
    else:
        send(Applied(len(sockets)))


def _mount(task: Task) -> Failed | None:
    try:
        make_private()
        mount_overlay(task.layers)
        mount_inside(task.layers.merged, task.build.previous)
    except NamespaceRefusedError as error:
        return Failed(error.message, error.hint, refused=True)
    except OSError as error:
        return describe_error(error)
    return None


def _apply(task: Task, root: OverlayRoot) -> Failed | None:
    try:
        task.step.apply(root)
    except StepFailedError as error:
        decision = AfterFailure.ABORT if task.ask is None else _ask(task, task.ask, error, root)
        failure = describe_error(error)
        return msgspec.structs.replace(failure, decision=decision.value)
    except (HacktreeError, OSError) as error:
        return describe_error(error)
    except Exception as error:  # noqa: BLE001 - the process outside raises it again
        bug = "".join(traceback.format_exception(error))
        return Failed(f"{type(error).__name__}: {error}"[:1000], bug=bug[-_MAX_TEXT:])
    return None


def _ask(
    task: Task, ask: AskAfterFailure, error: StepFailedError, root: OverlayRoot
) -> AfterFailure:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    take_terminal()
    try:
        return ask(task.step, error, root)
    except (KeyboardInterrupt, EOFError, HacktreeError, OSError):
        # The person is gone, or the terminal: what the step did is still to be told.
        return AfterFailure.ABORT
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def take_terminal() -> None:
    """Make this process the terminal's foreground job, if standard input is one.

    The caller's group has no number in this namespace, so that a shell couldn't give it back.
    """
    if not os.isatty(0):
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    set_foreground_group(os.getpgrp())


def set_foreground_group(group: int) -> None:
    """Make `group` the foreground job of the terminal that standard input is.

    Nothing if that is another session's terminal, if it hung up, or if the group has ended.
    """
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        with suppress(OSError):
            os.tcsetpgrp(0, group)
    finally:
        signal.signal(signal.SIGTTOU, before)


def describe_error(error: HacktreeError | OSError) -> Failed:
    """The message that stands for an error."""
    if isinstance(error, OSError):
        name = "" if error.filename is None else os.fsdecode(error.filename)
        return Failed(error.strerror or str(error), error=error.errno or 0, filename=_bounded(name))
    log = error.log if isinstance(error, StepFailedError) else ""
    return Failed(_bounded(error.message), _bounded(error.hint), log[-_MAX_TEXT:])


def _bounded(text: str) -> str:
    # A name of the tree may be no UTF-8, and msgpack takes nothing else.
    return text[:_MAX_TEXT].encode(errors="surrogateescape").decode(errors="replace")
