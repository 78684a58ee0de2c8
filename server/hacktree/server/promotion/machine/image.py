"""Disk images of directories, made without root: mkfs.ext4(8) copies the tree.

The virtual machine writes to the image, which nobody uses afterwards; it can't write beyond it.
"""

import itertools
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hacktree.common.errors import SystemFault
from hacktree.common.objects.commit import Commit, RootDirectory
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import Entry, SymlinkEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.repository.config import require_space
from hacktree.common.repository.repository import Repository
from hacktree.server.promotion.command import SEARCH_PATH
from hacktree.server.promotion.machine.kernel import UnfitBuildError
from hacktree.server.promotion.verdicts import Outcome

_BLOCK: Final = 4096
_FREE_INODES: Final = 1 << 16
_ROOM: Final = 64 << 20
"""For the file system's own tables, besides a sixteenth."""

_MAX_WORD: Final = 5000
"""debugfs reads lines of 8 KiB."""


class ImageFailedError(SystemFault):
    """A disk image could not be made on this machine."""


def make_image(directory: Path, image: Path, spare: int) -> None:
    """An ext4 file system with what `directory` holds and `spare` bytes free, as a sparse file.

    Raises `ImageFailedError`, and `SpaceError` if there is no room for all of it: a machine that
    runs out of it halfway would say that its build is at fault.
    """
    entries, content = _measure(directory)
    require_space(image.parent, content + spare, 0)
    size = content + content // 16 + 512 * (entries + _FREE_INODES) + _ROOM + spare
    # No journal: after a crash nobody looks at it again.
    _run(
        [
            "mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), "-m", "0", "-O", "^has_journal",
            "-N", str(entries + _FREE_INODES), "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard",
            "-d", str(directory.resolve()), image.name, f"{size // 1024}k",
        ],
        image.parent,
    )  # fmt: skip


def _measure(directory: Path) -> tuple[int, int]:
    """How many entries it has, and the bytes that they take at most."""
    entries = content = 0
    for where, names, files in os.walk(directory):
        for name in (*names, *files):
            entries += 1
            size = os.lstat(os.path.join(where, name)).st_size
            content += _BLOCK * max(1, -(-size // _BLOCK))
    return entries, content


def restore_attributes(repository: Repository, commit: Commit, root: Path, image: Path) -> None:
    """Give what is in the image the owners, modes and xattrs that the commit says, and no more.

    The checkout in `root`, of which it was made, has others if its user may not, or the mode of its
    repository does not, make them. Raises `UnfitBuildError` for names that debugfs(8) can't take.
    """
    script = image.with_name("attributes")
    values = image.with_name("values")
    values.mkdir()
    with script.open("wb") as stream:
        for line in _corrections(repository, commit, root, _files(values)):
            stream.write(line + b"\n")
        if not (root / "lost+found").exists():
            stream.write(b"rmdir /lost+found\n")
    _run(["debugfs", "-w", "-f", script.name, image.name], image.parent)
    script.unlink()
    shutil.rmtree(values)


def _files(directory: Path) -> Iterator[Path]:
    """Names for any number of files: counting those that are there takes longer each time."""
    return (directory / str(number) for number in itertools.count())


def _corrections(
    repository: Repository, commit: Commit, root: Path, files: Iterator[Path]
) -> Iterator[bytes]:
    top = commit.root
    named: Iterator[tuple[bytes, Entry | RootDirectory]] = walk_tree(repository.load_tree, top.id)
    for path, entry in itertools.chain([(b"", top)], named):
        place = os.path.join(os.fsencode(root), path)
        for command, value in _differences(place, entry, files):
            yield command + b" " + _quoted(b"/" + path) + b" " + value


def _differences(
    place: bytes, entry: Entry | RootDirectory, files: Iterator[Path]
) -> Iterator[tuple[bytes, bytes]]:
    """What debugfs has to do about one file, without its name in the middle."""
    status = os.lstat(place)
    # Not every mkfs.ext4 gives the image's top the attributes of the directory it is made of.
    at_top = isinstance(entry, RootDirectory)
    if at_top or entry.uid != status.st_uid:
        yield b"sif", b"uid %d" % entry.uid
    if at_top or entry.gid != status.st_gid:
        yield b"sif", b"gid %d" % entry.gid
    if isinstance(entry, SymlinkEntry):
        return
    if at_top or entry.mode != stat.S_IMODE(status.st_mode):
        yield b"sif", b"mode 0%o" % (stat.S_IFMT(status.st_mode) | entry.mode)
    present = set(os.listxattr(place, follow_symlinks=False))
    for name, value in entry.xattrs:
        if (
            at_top
            or name not in present
            or os.getxattr(place, name, follow_symlinks=False) != value
        ):
            file = next(files)
            file.write_bytes(value)
            yield b"ea_set -f values/" + file.name.encode(), _quoted(name.encode())


def _quoted(name: bytes) -> bytes:
    """For debugfs, which has commands that write to this machine: nothing may end the word."""
    if len(name) > _MAX_WORD or b'"' in name or any(byte < 0x20 for byte in name):
        raise UnfitBuildError(
            Outcome.INCONCLUSIVE,
            f"{display_path(name)[:300]}: a disk image can't be given what has such a name",
        )
    return b'"' + name + b'"'


def _run(command: list[str], directory: Path) -> None:
    program = shutil.which(command[0], path=SEARCH_PATH)
    if program is None:
        raise ImageFailedError(f"{command[0]} is not here", hint="Install the package e2fsprogs.")
    done = subprocess.run(
        [program, *command[1:]],
        cwd=directory,
        env={"PATH": SEARCH_PATH, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    # debugfs goes on after an error, and tells nobody but standard error, after its version.
    said = done.stderr.decode("utf-8", "replace").strip()
    trouble = [line for line in said.splitlines() if not line.startswith("debugfs 1.")]
    if done.returncode or (command[0] == "debugfs" and trouble):
        raise ImageFailedError(
            f"{command[0]} failed: {' '.join(trouble)[:500] or done.returncode}",
            hint="Is the disk full?",
        )
