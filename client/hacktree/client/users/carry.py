"""Files of the machine that every new root gets a copy of: its name, its clock's zone, its keys.

`carry` in client.toml lists them; "default" in it stands for `DEFAULT`. A name that ends a path may
have wildcards, a directory comes with what is in it, and what is missing is left out. A link comes
as a link if it leads to something in the root, else as the file that it names on the machine.
"""

import glob
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.beneath import (
    Attributes,
    read_file,
    replace_file,
    replace_link,
    resolve_in,
)
from hacktree.client.replay.step import Root
from hacktree.client.users.accounts import FILES, MAX_FILE, Table, names_and_ids
from hacktree.common.errors import UserError
from hacktree.common.objects.names import display_path
from hacktree.common.repository.layout import Mode

DEFAULT: Final = (
    "/etc/machine-id",
    "/etc/hostname",
    "/etc/locale.conf",
    "/etc/default/locale",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/adjtime",
    "/etc/vconsole.conf",
    "/etc/default/keyboard",
    "/etc/X11/xorg.conf.d/00-keyboard.conf",
    "/etc/resolv.conf",
    "/etc/ssh/ssh_host_*_key",
    "/etc/ssh/ssh_host_*_key.pub",
)
_MAX_FILES: Final = 1000
_MAX_BYTES: Final = 16 << 20
_CODE: Final = b"carry 1"
_RUNTIME: Final = ("/run/", "/var/run/", "/proc/", "/dev/", "/sys/", "/tmp/")  # noqa: S108
_REFUSED: Final = frozenset(
    f"/etc/{name}{suffix}" for name in FILES for suffix in ("", "-", ".lock")
)


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """A file as the machine has it: `data` is None where a link leads nowhere, `target` "" where
    there is no link. Owners go by name, since numbers differ between machine and root.
    """

    path: str
    target: str
    data: bytes | None
    mode: int
    user: str
    group: str


class Carrying(msgspec.Struct, frozen=True):
    """What will be copied, and what to say about what won't."""

    files: tuple[Carried, ...]
    notes: tuple[str, ...]


def parse_carry(listed: Sequence[str]) -> list[str]:
    """The paths of a `carry` list, defaults put in; raises `UserError`."""
    paths: list[str] = []
    for path in listed:
        if path == "default":
            paths += DEFAULT
            continue
        if (
            not path.startswith("/etc/")
            or posixpath.normpath(path) != path
            or not path.isprintable()
            or glob.has_magic(posixpath.dirname(path))
        ):
            raise UserError(
                f"carry in client.toml: {path!r} can't be carried",
                hint="Name absolute paths below /etc, with wildcards in the last name only, or "
                '"default". Other files belong in a layer or a config script.',
            )
        paths.append(path)
    return list(dict.fromkeys(paths))


def find_carried(host: Path, listed: Sequence[str]) -> Carrying:
    """Read the files of a `carry` list; raises `UserError` beyond 1,000 files or 16 MiB."""
    names = _Names(host)
    notes: list[str] = []
    found: dict[str, Carried] = {}
    size = 0
    for path in _expand(host, parse_carry(listed)):
        if path in _REFUSED:
            raise UserError(
                f"carry in client.toml: {path} would replace the root's users",
                hint="The machine's people come by themselves: see `hacktree users`.",
            )
        try:
            carried = _read(host, path, names)
        except PermissionError:
            notes.append(f"{path} is not carried: it can't be read. Deploy as root.")
            continue
        if carried is not None and not _is_text(carried):
            shown = display_path(os.fsencode(path))
            notes.append(
                f"{shown} is not carried: its name, target or owner is not UTF-8. Rename it."
            )
        elif carried is not None:
            found[path] = carried
            size += len(carried.data or b"")
        if len(found) > _MAX_FILES or size > _MAX_BYTES:
            raise UserError(
                f"carry in client.toml: more than {_MAX_FILES} files or {_MAX_BYTES >> 20} MiB",
                hint="Put a tree of files into a layer.",
            )
    return Carrying(tuple(found.values()), tuple(notes))


def _is_text(carried: Carried) -> bool:
    """Digests and documents of what is carried are; names of a file system are any bytes."""
    try:
        "".join((carried.path, carried.target, carried.user, carried.group)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _expand(host: Path, paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        matches = (
            sorted(glob.glob(path.lstrip("/"), root_dir=host))
            if glob.has_magic(path)
            else [path.lstrip("/")]
        )
        for match in matches:
            top = host / match
            if top.is_symlink() or not top.is_dir():
                yield f"/{match}"
                continue
            for directory, directories, files in os.walk(top):
                directories.sort()
                below = Path(directory).relative_to(host)
                # os.walk lists links to directories among the directories, and doesn't enter them.
                links = [name for name in directories if (Path(directory) / name).is_symlink()]
                yield from (f"/{below / name}" for name in sorted(files + links))


class _Names:
    """Names of the owners of the machine's files."""

    def __init__(self, host: Path) -> None:
        self.users, self.groups = (
            {number: name for name, number in reversed(_ids(host, kind).items())}
            for kind in ("passwd", "group")
        )


def _ids(root: Path, kind: str) -> dict[str, int]:
    found = read_file(root, f"etc/{kind}", MAX_FILE)
    return names_and_ids(Table(found[0])) if found else {}


def _read(host: Path, path: str, names: _Names) -> Carried | None:
    here = host / path.lstrip("/")
    try:
        target = os.readlink(here) if here.is_symlink() else ""
        source = resolve_in(host, path)
        status = source.lstat() if source else here.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    data = None
    if source is not None and stat.S_ISREG(status.st_mode):
        with source.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    if data is None and not target:
        return None  # a socket, a device: nothing to copy
    return Carried(
        path,
        target,
        data,
        stat.S_IMODE(status.st_mode) & 0o777 if data is not None else 0o644,
        names.users.get(status.st_uid, ""),
        names.groups.get(status.st_gid, ""),
    )


class CarryStep(msgspec.Struct, frozen=True):
    """Copies them."""

    carrying: Carrying
    name: str = "carried files"

    @property
    def digest(self) -> bytes:
        """Of what is copied; contents count."""
        return hashlib.sha256(_CODE + msgspec.msgpack.encode(self.carrying.files)).digest()

    def apply(self, root: Root) -> None:
        """See `Step.apply`."""
        for note in self.carrying.notes:
            root.say(note)
        private = root.build.sysroot.repository.mode is Mode.BARE_USER
        users, groups = _ids(root.path, "passwd"), _ids(root.path, "group")
        # Links last: they may lead to what is copied here.
        for carried in sorted(self.carrying.files, key=lambda carried: bool(carried.target)):
            if _made_at_run_time(root.path, carried.path):
                root.say(f"{carried.path} stays: this build makes it when it runs")
            elif carried.target and _leads_inside(root.path, carried):
                replace_link(root.path, carried.path.lstrip("/"), carried.target)
            elif carried.data is not None:
                attributes = _attributes(carried, users, groups)
                if private:
                    attributes = Attributes(attributes.mode, None)
                replace_file(root.path, carried.path.lstrip("/"), carried.data, attributes)
            else:
                root.say(
                    f"{carried.path} is not carried: it links to {carried.target}, which is "
                    "neither in this build nor on this machine. Mend or remove the link."
                )


def _attributes(carried: Carried, users: dict[str, int], groups: dict[str, int]) -> Attributes:
    """A group that the root lacks may do what everybody may: more would be another's right."""
    mode = carried.mode
    if carried.group not in groups:
        mode &= 0o707 | (mode & 0o007) << 3
    return Attributes(mode, (users.get(carried.user, 0), groups.get(carried.group, 0)))


def _made_at_run_time(root: Path, path: str) -> bool:
    try:
        target = os.readlink(root / path.lstrip("/"))
    except OSError:
        return False
    return _absolute(path, target).startswith(_RUNTIME)


def _leads_inside(root: Path, carried: Carried) -> bool:
    absolute = _absolute(carried.path, carried.target)
    return not absolute.startswith(_RUNTIME) and resolve_in(root, absolute) is not None


def _absolute(path: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
