"""Editing a config script: in a copy, checked before it replaces the script."""

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hacktree.client.scripts.store import (
    MAX_SCRIPT_BYTES,
    ScriptError,
    check_content,
    find_script,
    read_content,
    replace_script,
)
from hacktree.common.errors import HacktreeError


class EditError(ScriptError):
    """The script was edited and can't be taken; the hint names the file that holds the text."""


def edit_script(sysroot: Path, name: str, environment: Mapping[str, str]) -> bool:
    """Run `VISUAL`, else `EDITOR`, else vi, on a copy; returns whether the script changed.

    Raises `EditError` if the editor fails or what it left is no script; nobody's text is lost.
    """
    found = find_script(sysroot, name)
    before = read_content(sysroot, found)
    editor = environment.get("VISUAL") or environment.get("EDITOR") or "vi"
    directory = Path(tempfile.mkdtemp(prefix="hacktree-edit-"))
    copy = directory / name
    copy.write_bytes(before)
    try:
        _run_editor(editor, copy)
        with open(copy, "rb") as stream:
            after = stream.read(MAX_SCRIPT_BYTES + 1)
        if after != before:
            check_content(after)
            replace_script(sysroot, found, after)
    except (HacktreeError, OSError) as error:
        if copy.exists() and copy.read_bytes() != before:
            raise EditError(
                f"{name} stays as it was: {_reason(error)}",
                hint=f"Your text is in {copy}.",
            ) from error
        _forget(directory)
        raise
    _forget(directory)
    return after != before


def _run_editor(editor: str, path: Path) -> None:
    command = [*shlex.split(editor), str(path)]
    try:
        status = subprocess.run(command, check=False).returncode
    except FileNotFoundError as error:
        raise ScriptError(
            f"there is no editor {command[0]}", hint="Set VISUAL or EDITOR to yours."
        ) from error
    if status != 0:
        raise ScriptError(f"the editor {command[0]} ended with {status}")


def _reason(error: HacktreeError | OSError) -> str:
    return error.message if isinstance(error, HacktreeError) else str(error)


def _forget(directory: Path) -> None:
    # Editors leave files, and directories, beside the one they edit.
    shutil.rmtree(directory)
