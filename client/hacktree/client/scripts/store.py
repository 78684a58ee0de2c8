"""`<sysroot>/etc/hacktree/config.d`: which files in it are config scripts, and changing them.

Names count as run-parts takes them, dots allowed: ASCII letters, digits, `_`, `-` and `.`, no `.`
first, and not what editors and package managers leave behind. They run in the order of their
bytes. A script that is switched off is called `NAME.disabled`.
"""

import enum
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from hacktree.client.scripts.declarations import Declarations, parse_declarations
from hacktree.common.errors import HacktreeError, UserError
from hacktree.common.repository.durable import (
    make_directories,
    remove_durably,
    sync_directory,
    write_durably,
)

CONFIG_DIRECTORY: Final = Path("etc/hacktree/config.d")
"""Relative to the sysroot."""

DISABLED_SUFFIX: Final = ".disabled"
MAX_SCRIPT_BYTES: Final = 16 * 1024 * 1024

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_LEFTOVER: Final = re.compile(
    r".*\.(disabled|bak|old|orig|rej|save|swp|tmp|rpmnew|rpmsave|rpmorig|dpkg-[a-z]+|ucf-[a-z]+)"
)
_NOT_EXECUTABLE: Final = "it is not executable"
_EXECUTABLE: Final = (b"#!", b"\x7fELF")


class ScriptError(UserError):
    """A config script can't be used, or there is none of that name."""


class State(enum.Enum):
    """What a replay does with a file in config.d: run it, leave it out, refuse to begin."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    NOT_EXECUTABLE = "not executable"
    IGNORED = "ignored"
    INVALID = "invalid"


class Script(msgspec.Struct, frozen=True):
    """A script as it is now; `mode` are its permission bits."""

    name: str
    content: bytes
    mode: int
    declarations: Declarations


class Found(msgspec.Struct, frozen=True):
    """A file in config.d; `problem` says why it is not run, `script` is None where it can't be."""

    name: str
    state: State
    script: Script | None
    problem: str = ""


def find_scripts(sysroot: Path) -> list[Found]:
    """Everything in config.d that does not begin with a dot, in the order of a replay."""
    directory = sysroot / CONFIG_DIRECTORY
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    visible = (name for name in names if not name.startswith("."))
    return [_examine(directory, name) for name in sorted(visible, key=os.fsencode)]


def _examine(directory: Path, name: str) -> Found:
    shown = name.removesuffix(DISABLED_SUFFIX)
    if not is_script_name(shown):
        return Found(name, State.IGNORED, None, "its name is not one of a script")
    try:
        script = _read(directory / name, shown)
    except HacktreeError as error:
        mode = os.lstat(directory / name).st_mode
        if shown != name:
            return Found(shown, State.DISABLED, None, error.message)
        if stat.S_ISREG(mode) and not mode & 0o111:
            return Found(name, State.NOT_EXECUTABLE, None, f"{_NOT_EXECUTABLE}; {error.message}")
        return Found(name, State.INVALID, None, error.message)
    if shown != name:
        return Found(shown, State.DISABLED, script)
    if not script.mode & 0o111:
        return Found(name, State.NOT_EXECUTABLE, script, _NOT_EXECUTABLE)
    return Found(name, State.ENABLED, script)


def is_script_name(name: str) -> bool:
    """Whether a file of this name in config.d is a script."""
    return _NAME.fullmatch(name) is not None and _LEFTOVER.fullmatch(name) is None


def enabled_scripts(sysroot: Path) -> list[Script]:
    """The scripts that a replay runs, in order.

    Raises `ScriptError` for one that can't be run: a root without it would pass for one with it.
    """
    found = find_scripts(sysroot)
    for one in found:
        if one.state is State.INVALID:
            raise ScriptError(
                f"config script {one.name}: {one.problem}",
                hint=f"Mend it in {sysroot / CONFIG_DIRECTORY}, or switch it off: "
                f"`hacktree config disable {one.name}`.",
            )
    return [one.script for one in found if one.state is State.ENABLED and one.script is not None]


def describe_unused(sysroot: Path) -> list[str]:
    """A line for each file in config.d that looks like a script and is not run."""
    return [
        f"{sysroot / CONFIG_DIRECTORY / one.name} is not run: {one.problem}"
        for one in find_scripts(sysroot)
        if one.state in (State.NOT_EXECUTABLE, State.IGNORED)
    ]


def find_script(sysroot: Path, name: str) -> Found:
    """The script of that name, whatever its state; raises `ScriptError`."""
    found = [one for one in find_scripts(sysroot) if one.name == name]
    if not found or found[0].state is State.IGNORED:
        raise ScriptError(
            f"there is no config script {name!r}", hint="`hacktree config list` shows them."
        )
    if len(found) > 1:
        raise ScriptError(
            f"{name} is there twice: as it is and as {name}{DISABLED_SUFFIX}",
            hint=f"Delete one of them in {sysroot / CONFIG_DIRECTORY}.",
        )
    return found[0]


def _path_of(sysroot: Path, found: Found) -> Path:
    """Where the script's file is."""
    suffix = DISABLED_SUFFIX if found.state is State.DISABLED else ""
    return sysroot / CONFIG_DIRECTORY / f"{found.name}{suffix}"


def _read(path: Path, name: str) -> Script:
    """Read a script and check it as `check_content` does; raises `ScriptError`, `OSError`."""
    with _open_regular(path) as stream:
        status = os.fstat(stream.fileno())
        if status.st_uid not in (0, os.geteuid()):
            raise ScriptError(f"it belongs to user {status.st_uid}, who could run anything by it")
        if status.st_mode & 0o002:
            raise ScriptError("everybody may write to it, and so run anything by it")
        content = stream.read(MAX_SCRIPT_BYTES + 1)
    return Script(name, content, stat.S_IMODE(status.st_mode), check_content(content))


def _open_regular(path: Path) -> BinaryIO:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise ScriptError("it is not a regular file")
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def check_content(content: bytes) -> Declarations:
    """Whether a kernel can start it, and what it declares; raises `ScriptError`."""
    if len(content) > MAX_SCRIPT_BYTES:
        raise ScriptError(f"it is larger than {MAX_SCRIPT_BYTES} bytes")
    if not content.startswith(_EXECUTABLE):
        raise ScriptError(
            "it is neither a script that begins with #! nor an ELF program",
            hint="Let its first line name an interpreter: #!/bin/sh",
        )
    return parse_declarations(content)


def add_script(sysroot: Path, name: str, content: bytes, mode: int) -> Script:
    """Put a script in its place, executable, durably; raises `ScriptError` if the name is taken."""
    if not is_script_name(name):
        raise ScriptError(
            f"{name!r} is no name for a config script",
            hint="ASCII letters, digits, _, - and ., as in 10-locale; not .bak, .orig, "
            "NAME.disabled and the like. --name gives another.",
        )
    declarations = check_content(content)
    directory = sysroot / CONFIG_DIRECTORY
    for taken in (name, name + DISABLED_SUFFIX):
        if os.path.lexists(directory / taken):
            raise ScriptError(
                f"there is a config script {name} already",
                hint=f"`hacktree config edit {name}` changes it, `hacktree config remove {name}` "
                "makes room.",
            )
    # Whoever may read it may run it; nobody but its owner may write to it.
    mode = 0o700 | mode & 0o044 | (mode & 0o044) >> 2
    make_directories(sysroot, CONFIG_DIRECTORY, mode=0o755)
    write_durably(directory / name, content, mode=mode)
    return Script(name, content, mode, declarations)


def read_content(sysroot: Path, found: Found) -> bytes:
    """A script's bytes, checked or not, at most one more than a script may have.

    Raises `ScriptError` for what is no regular file: a link's mode is nothing to give a script.
    """
    try:
        with _open_regular(_path_of(sysroot, found)) as stream:
            return stream.read(MAX_SCRIPT_BYTES + 1)
    except ScriptError as error:
        raise ScriptError(f"{found.name}: {error.message}", hint="Put a file there.") from error


def replace_script(sysroot: Path, found: Found, content: bytes) -> None:
    """Give a script other content, durably; its mode and state stay."""
    check_content(content)
    path = _path_of(sysroot, found)
    write_durably(path, content, mode=stat.S_IMODE(os.lstat(path).st_mode))


def remove_script(sysroot: Path, name: str) -> None:
    """Delete a script, durably."""
    remove_durably(_path_of(sysroot, find_script(sysroot, name)))


def switch_script(sysroot: Path, name: str, state: State) -> bool:
    """Make a script ENABLED or DISABLED, durably; returns whether anything changed.

    Raises `ScriptError` for what could not run if it was enabled.
    """
    found = find_script(sysroot, name)
    if state is State.ENABLED and found.script is None:
        raise ScriptError(f"{name} can't run: {found.problem}", hint="Mend it first.")
    path = _path_of(sysroot, found)
    plain = sysroot / CONFIG_DIRECTORY / name
    target = plain if state is State.ENABLED else plain.with_name(name + DISABLED_SUFFIX)
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    executable = state is State.DISABLED or mode & 0o111
    if path == target and executable:
        return False
    if not executable:
        path.chmod(mode | 0o100 | (mode & 0o044) >> 2)
    if path != target:
        os.rename(path, target)
    sync_directory(target.parent)
    return True
