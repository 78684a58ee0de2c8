"""What a suite's command finds in the virtual machine, and the scripts that start it there.

They run with a busybox that comes along, since a build may have no shell.
"""

import os
import re
import shlex
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.repository.config import format_size
from hacktree.server.promotion.command import SEARCH_PATH, CommandMissingError
from hacktree.server.promotion.machine.initramfs import SUITE_MOUNT

MAX_FILES: Final = 1 << 30
"""Bytes of a suite's own directory, which comes along."""

LOG_PORT: Final = "hacktree.log"
ANSWER_PORT: Final = "hacktree.answer"

_SYSTEM: Final = ("/bin", "/sbin", "/usr/bin", "/usr/sbin")
_FILES: Final = f"{SUITE_MOUNT}/files"
_WORK: Final = f"{SUITE_MOUNT}/work"
_RUN: Final = f"{SUITE_MOUNT}/run"
_SYSTEMD: Final = "/usr/lib/systemd/systemd"

_UNIT: Final = f"""\
[Unit]
Description=A test of this build by hacktree
After=default.target
DefaultDependencies=no

[Service]
ExecStart={SUITE_MOUNT}/busybox sh {_RUN}
Restart=no
"""

_START: Final = f"""\
b={SUITE_MOUNT}/busybox
$b ip link set lo up
files=@FILES@
if [ -n "$files" ]; then
    $b mkdir -p "$files"
    $b mount -o bind {_FILES} "$files" && $b mount -o remount,bind,ro "$files"
fi
if [ -x {_SYSTEMD} ]; then
    $b mkdir -p /run/systemd/system/default.target.wants
    $b cp {SUITE_MOUNT}/unit /run/systemd/system/hacktree-qa.service
    $b ln -s ../hacktree-qa.service /run/systemd/system/default.target.wants/
    exec {_SYSTEMD}
fi
. {_RUN}
"""

_RUN_SCRIPT: Final = f"""\
b={SUITE_MOUNT}/busybox
for port in /sys/class/virtio-ports/*; do
    case "$($b cat "$port/name")" in
    {LOG_PORT}) log=/dev/${{port##*/}} ;;
    {ANSWER_PORT}) answer=/dev/${{port##*/}} ;;
    esac
done
# A busybox prefers its own applets: a name is looked up here, so that the build's program is run.
name=@PROGRAM@
program=/usr/bin/$name
for directory in @PATH@; do
    [ -x "$directory/$name" ] && program=$directory/$name && break
done
case $name in */*) program=$name ;; esac
cd {_WORK}
$b env -i @ENVIRONMENT@ "$program" @ARGUMENTS@ </dev/null >"$log" 2>&1
echo $? >"$answer"
$b poweroff -f
"""

_MARK: Final = re.compile("@[A-Z]+@")


class SuiteProgram(msgspec.Struct, frozen=True):
    """`files`: the directory of this machine that comes along, at the same path; None: the
    command is the build's own.
    """

    command: Sequence[str]
    files: Path | None


def find_program(command: Sequence[str], hidden: Sequence[Path]) -> SuiteProgram:
    """Where a suite's command comes from: /bin/sh is the build's, /usr/lib/qa/suite is ours.

    `hidden` must not come along. Raises `CommandMissingError`, and `UserError` for a directory that
    can't.
    """
    found = shutil.which(command[0], path=SEARCH_PATH)
    directory = Path(found or command[0]).parent
    system = {str(Path(name).resolve()) for name in _SYSTEM} | set(_SYSTEM)
    if str(directory) in system or (found is None and "/" not in command[0]):
        return SuiteProgram(command, None)
    if found is None or not directory.is_absolute():
        raise CommandMissingError(
            f"can't run {command[0]}: there is no such program",
            hint="Install the suite's command on this machine; server.toml names it.",
        )
    real = directory.resolve()
    for path in (path.resolve() for path in hidden):
        if path.is_relative_to(real) or real.is_relative_to(path):
            raise UserError(
                f"{directory} would come along into the virtual machine, and with it {path}",
                hint="Give the suite's command a directory of its own.",
            )
    return SuiteProgram((found, *command[1:]), directory)


def fill_suite_disk(
    place: Path, program: SuiteProgram, environment: Mapping[str, str], busybox: bytes
) -> None:
    """Put into the empty directory `place` what is mounted at `SUITE_MOUNT`."""
    (place / "busybox").write_bytes(busybox)
    (place / "busybox").chmod(0o755)
    (place / "work").mkdir(mode=0o700)
    if program.files is not None:
        _check_size(program.files)
        shutil.copytree(program.files, place / "files", symlinks=True)
    inside = {**environment, "HACKTREE_ROOT": "/", "HOME": _WORK, "TMPDIR": _WORK}
    name, *arguments = program.command
    run = {
        "@PROGRAM@": shlex.quote(name),
        "@PATH@": shlex.join(SEARCH_PATH.split(":")),
        "@ENVIRONMENT@": shlex.join(f"{name}={value}" for name, value in inside.items()),
        "@ARGUMENTS@": shlex.join(arguments),
    }
    files = "" if program.files is None else str(program.files)
    (place / "start").write_text(_START.replace("@FILES@", shlex.quote(files)))
    (place / "run").write_text(_MARK.sub(lambda found: run[found[0]], _RUN_SCRIPT))
    (place / "unit").write_text(_UNIT)


def _check_size(directory: Path) -> None:
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            status = os.lstat(os.path.join(where, name))
            total += status.st_size
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                raise UserError(
                    f"{Path(where, name)} is neither a file nor a link: it can't come along into "
                    "the virtual machine",
                    hint="Give the suite's command a directory of its own.",
                )
            if total > MAX_FILES:
                raise UserError(
                    f"{directory} has more than {format_size(MAX_FILES)}: too much to come along "
                    "into the virtual machine",
                    hint="Give the suite's command a directory of its own.",
                )
