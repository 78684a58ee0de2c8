"""`<sysroot>/etc/hacktree/answers.env`: what config scripts need to know and must not contain.

Assignments that a shell can read, `KEY='a value'`, one a line, and comments; 0600, since passwords
are among them. Scripts get a copy without comments, whose name is in `HACKTREE_ANSWERS`.
"""

import os
import re
import shlex
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from hacktree.common.errors import UserError
from hacktree.common.repository.durable import make_directories, write_durably
from hacktree.common.repository.locks import LockKind, hold_lock

ANSWERS_PATH: Final = Path("etc/hacktree/answers.env")
"""Relative to the sysroot."""

_PATIENCE: Final = 10.0
MAX_BYTES: Final = 64 * 1024

_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_COMMENT: Final = "# Answers for config scripts; `hacktree config answer KEY=VALUE` adds one.\n"


class AnswersError(UserError):
    """The answer file, or an answer, can't be used."""


def read_answers(sysroot: Path) -> dict[str, str]:
    """The answers, none if there is no file; raises `AnswersError` that names the faulty line."""
    path = sysroot / ANSWERS_PATH
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise AnswersError(f"{path} is not a file of at most {MAX_BYTES} bytes")
        if status.st_mode & 0o077:
            raise AnswersError(
                f"{path} can be read or written by others than its owner",
                hint=f"Answers may be secret: chmod 600 {path}",
            )
        data = stream.read(MAX_BYTES)
    try:
        return _parse(data.decode())
    except ValueError as error:
        raise AnswersError(
            f"{path}: {error}", hint="Each line is KEY='a value', as a shell takes it."
        ) from error


def _parse(text: str) -> dict[str, str]:
    answers = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.strip().partition("=")
        words = shlex.split(value)
        if not _KEY.fullmatch(key) or not equals or len(words) > 1:
            raise ValueError(f"line {number} is no assignment")
        if key in answers:
            raise ValueError(f"line {number}: {key} is answered twice")
        answers[key] = words[0] if words else ""
    return answers


def parse_answer(text: str) -> tuple[str, str]:
    """`KEY=VALUE`, checked; raises `AnswersError`."""
    key, _, value = text.partition("=")
    if not _KEY.fullmatch(key):
        raise AnswersError(f"{key!r} is no key: up to 64 letters, digits and _, no digit first")
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise AnswersError(f"the value of {key} has a line end or another control character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise AnswersError(f"the value of {key} is not UTF-8") from None
    return key, value


def change_answers(
    sysroot: Path, answers: Mapping[str, str], forgotten: Collection[str]
) -> dict[str, str]:
    """Set answers, forget others, durably, with nobody else changing them meanwhile; returns all.

    Raises `AnswersError`, also for one to forget that is not there; `BusyError`.
    """
    make_directories(sysroot, ANSWERS_PATH.parent, mode=0o755)
    with hold_lock(sysroot / ANSWERS_PATH.parent, LockKind.EXCLUSIVE, timeout=_PATIENCE):
        changed = read_answers(sysroot) | dict(answers)
        for key in forgotten:
            if changed.pop(key, None) is None:
                raise AnswersError(
                    f"there is no answer {key}", hint="`hacktree config answer` lists them."
                )
        write_answers(sysroot, changed)
    return changed


def write_answers(sysroot: Path, answers: Mapping[str, str]) -> None:
    """Replace the file, durably; comments of a person who edited it are not kept."""
    data = _COMMENT.encode() + render_answers(answers)
    if len(data) > MAX_BYTES:
        raise AnswersError(f"the answers are more than {MAX_BYTES} bytes")
    make_directories(sysroot, ANSWERS_PATH.parent, mode=0o755)
    write_durably(sysroot / ANSWERS_PATH, data)


def render_answers(answers: Mapping[str, str]) -> bytes:
    """What scripts get: sorted, so that equal answers are equal bytes."""
    return "".join(f"{key}={shlex.quote(answers[key])}\n" for key in sorted(answers)).encode()
