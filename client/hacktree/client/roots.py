"""The roots of a sysroot: their names, their records, and which are in use.

A root is *complete* when its directory has its final name and a record: the record is written, and
the whole file system synced, before that rename.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.sysroot import ROOTS, Sysroot
from hacktree.common.errors import CorruptError, UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.repository.config import require_space
from hacktree.common.repository.durable import remove_durably, write_durably

ROOT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*-[0-9a-f]{9}\.[1-9][0-9]*")
RECORD_SUFFIX: Final = ".json"
LINK_SUFFIX: Final = ".link"
PIN_PREFIX: Final = "root-"
_DIRECTORY_BYTES: Final = 4096


class RootMissingError(UserError):
    """There is no such root."""


class ForeignLinkError(UserError):
    """What stands in the live link's place is not ours."""


class StepRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step that was replayed on a root: `key` names its layer in `.ht/replay`.

    `seconds` that it took; None: its layer was there already.
    """

    name: str
    key: str
    seconds: float | None = None


class RootRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a root was made of. `created` is in seconds since 1970 UTC; `inputs` is the digest of
    local changes, empty when there are none: with `commit` it decides whether a root is reused. It
    is the last key of `steps`. `seconds`: what making it took, by phase, without sync and swap.
    """

    root: str
    commit: str
    tree: str
    branch: str
    version: str
    created: int
    inputs: str = ""
    pinned: bool = False
    steps: tuple[StepRecord, ...] = ()
    seconds: dict[str, float] = {}

    def __post_init__(self) -> None:
        if not ROOT_NAME.fullmatch(self.root):
            raise ValueError(f"not a root's name: {self.root!r}")
        parse_object_id(self.commit)

    @property
    def commit_id(self) -> ObjectId:
        """The commit that the root was made from."""
        return parse_object_id(self.commit)


class Roots(msgspec.Struct, frozen=True):
    """The complete roots at one moment. `order` lists those that went live, the latest last.

    `linked` are the targets of every live link of the sysroot: a root stays, too, when it went live
    under a name that the configuration no longer has.
    """

    records: dict[str, RootRecord]
    order: tuple[str, ...]
    current: str | None
    linked: frozenset[str]
    running: str | None

    @property
    def live(self) -> RootRecord | None:
        """The record of the current root."""
        return self.records.get(self.current or "")

    @property
    def previous(self) -> str | None:
        """The root that was live before the current one."""
        return next((root for root in reversed(self.order) if root != self.current), None)

    @property
    def protected(self) -> frozenset[str]:
        """Roots that nothing removes by itself: running, current, previous, pinned."""
        used = {self.running, self.current, self.previous, *self.linked}
        pinned = {name for name, record in self.records.items() if record.pinned}
        return frozenset(name for name in used | pinned if name is not None)

    def newest_first(self) -> list[str]:
        """All roots: the last deployed first, those that never went live last."""
        deployed = list(reversed(self.order))
        return deployed + sorted(self.records.keys() - set(deployed))

    def with_live(self, root: str) -> tuple[str, ...]:
        """`order` once `root` has gone live."""
        return (*(name for name in self.order if name != root), root)

    def find(self, text: str) -> RootRecord:
        """The root called `text`: its name, a beginning of it, `current` or `previous`."""
        named = {"current": self.current, "previous": self.previous}.get(text, text)
        if named is None:
            raise RootMissingError(f"there is no {text} root", hint="See `hacktree status`.")
        if named in self.records:
            return self.records[named]
        matches = [name for name in self.records if named and name.startswith(named)]
        if len(matches) == 1:
            return self.records[matches[0]]
        problem = "is ambiguous" if matches else "does not exist"
        raise RootMissingError(f"root {text!r} {problem}", hint="See `hacktree status`.")


def read_roots(sysroot: Sysroot) -> Roots:
    """The state of the disk; raises `CorruptError` for a record that can't be read."""
    records = {}
    for name in list_root_directories(sysroot):
        record = read_record(sysroot, name)
        if record is not None:
            records[name] = record
    order = tuple(name for name in read_order(sysroot) if name in records)
    return Roots(
        records,
        order,
        read_live(sysroot),
        frozenset(_linked_roots(sysroot)),
        _running_root(sysroot),
    )


def list_root_directories(sysroot: Sysroot) -> list[str]:
    """The directories with a root's final name, sorted."""
    return sorted(
        entry.name
        for entry in _entries(sysroot.roots)
        if ROOT_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    )


def _entries(directory: os.PathLike[str]) -> list["os.DirEntry[str]"]:
    with os.scandir(directory) as entries:
        return list(entries)


def read_record(sysroot: Sysroot, root: str) -> RootRecord | None:
    """The record of a root, or None."""
    path = sysroot.records / f"{root}{RECORD_SUFFIX}"
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RootRecord)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, ValueError, UserError) as error:
        raise CorruptError(
            f"{path} is damaged: {error}", hint="Delete it and deploy that commit again."
        ) from error
    if record.root != root:
        raise CorruptError(f"{path} describes {record.root}", hint="Delete it and deploy again.")
    return record


def write_record(sysroot: Sysroot, record: RootRecord) -> None:
    """Replace the record of a root, durably."""
    path = sysroot.records / f"{record.root}{RECORD_SUFFIX}"
    write_durably(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def write_pin(sysroot: Sysroot, record: RootRecord) -> None:
    """Make prune keep the commit of a root."""
    write_durably(sysroot.pins / f"{PIN_PREFIX}{record.root}", f"{record.commit}\n".encode())


def forget_root(sysroot: Sysroot, root: str) -> None:
    """Delete record and link, then the pin, of a root whose directory is gone."""
    remove_durably(sysroot.records / f"{root}{RECORD_SUFFIX}")
    remove_durably(sysroot.records / f"{root}{LINK_SUFFIX}")
    remove_durably(sysroot.pins / f"{PIN_PREFIX}{root}")


def new_root_name(sysroot: Sysroot, commit: ObjectId) -> str:
    """`gnomeos-<9 digits of the commit>.<n>`, with the first n that nothing uses."""
    prefix = f"{sysroot.config.name}-{commit.hex()[:9]}."
    number = 1
    while (
        os.path.lexists(sysroot.roots / f"{prefix}{number}")
        or (sysroot.records / f"{prefix}{number}{RECORD_SUFFIX}").exists()
    ):
        number += 1
    return f"{prefix}{number}"


def require_root_space(sysroot: Sysroot, commit: Commit) -> None:
    """Raise `SpaceError` unless a checkout of the commit fits: its files are links to objects."""
    totals = commit.totals
    require_space(
        sysroot.roots,
        (totals.directories + totals.symlinks) * _DIRECTORY_BYTES,
        sysroot.repository.reserve,
    )


def read_order(sysroot: Sysroot) -> tuple[str, ...]:
    """The roots that went live, the latest last."""
    path = sysroot.repository.state / "deployments.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[str, ...])
    except FileNotFoundError:
        return ()
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptError(
            f"{path} is damaged: {error}",
            hint="Delete it: only the order of past deployments is lost.",
        ) from error


def write_order(sysroot: Sysroot, order: tuple[str, ...]) -> None:
    """Replace the order of deployments, durably."""
    write_durably(sysroot.repository.state / "deployments.json", msgspec.json.encode(order))


def read_live(sysroot: Sysroot) -> str | None:
    """The root that the live link names, or None; `ForeignLinkError` if the link isn't ours."""
    try:
        target = os.readlink(sysroot.link)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ForeignLinkError(
            f"{sysroot.link} is not a symbolic link",
            hint="It stands where the live link belongs: move it away, or set another `name` in "
            "etc/hacktree/client.toml.",
        ) from error
    root = root_of_target(target)
    if root is None:
        raise ForeignLinkError(
            f"{sysroot.link} points to {target}, which is not a root",
            hint="Remove that link, or set another `name` in etc/hacktree/client.toml.",
        )
    return root


def prepare_link(sysroot: Sysroot, root: str) -> Path:
    """A symbolic link to hard-link the live link of `root` to; it is made if it is absent.

    Made with the root, it makes going back to it possible when the disk has no inode left.
    """
    prepared = sysroot.records / f"{root}{LINK_SUFFIX}"
    with suppress(FileExistsError):
        os.symlink(f"{ROOTS}/{root}", prepared)
    return prepared


def root_of_target(target: str) -> str | None:
    """The root that a link with this target names, or None."""
    name = target.removeprefix(f"{ROOTS}/")
    return name if name != target and ROOT_NAME.fullmatch(name) else None


def _linked_roots(sysroot: Sysroot) -> set[str]:
    found = set()
    for entry in _entries(sysroot.path):
        if entry.is_symlink() and not entry.name.startswith("."):
            root = root_of_target(os.readlink(entry.path))
            if root is not None:
                found.add(root)
    return found


def _running_root(sysroot: Sysroot) -> str | None:
    """The root that this process has as `/`."""
    here = os.stat("/")
    for entry in _entries(sysroot.roots):
        status = entry.stat(follow_symlinks=False)
        if (status.st_dev, status.st_ino) == (here.st_dev, here.st_ino):
            return entry.name
    return None
