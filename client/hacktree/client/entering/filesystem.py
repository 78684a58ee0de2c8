"""The file system that a program in a root sees, mounted in a namespace of its own.

The root is bound onto itself, read-only, with its own /etc and the sysroot's /var over it; then the
host's devices, sockets and homes. Mount points are found within the root: no link of the tree leads
out of it. Mount points that the tree lacks come from a skeleton that lies below it in an overlay.
"""

import enum
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.edits.places import EtcPlace
from hacktree.client.entering.holders import Holder
from hacktree.client.entering.syscalls import (
    attach_tree,
    clone_tree,
    join_namespace,
    make_read_only,
    pivot_into,
)
from hacktree.client.links import TooManyLinksError, follow_links
from hacktree.client.replay.mounts import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    make_private,
    mount,
)
from hacktree.client.replay.namespaces import CLONE_NEWNS
from hacktree.common.errors import SystemFault, UserError

_STAGE: Final = Path("/sys")
"""Covered by a tmpfs while this goes on: it is everywhere, and no root lies below it."""

_PLACES: Final = (
    ("/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"),
)
_RESOLVER: Final = "/etc/resolv.conf"
_OVERLAY: Final = "redirect_dir=nofollow,index=off,metacopy=off,xino=off"


class MountPointError(UserError):
    """The root has no place for something that is mounted there."""


class OverlayError(SystemFault):
    """The kernel refused an overlay."""


class Writes(enum.Enum):
    """What becomes of what is written to the root's own files."""

    REFUSED = "refused"
    THROWN_AWAY = "thrown away"


class Bind(msgspec.Struct, frozen=True):
    """A file or directory of the host, with what is mounted below it, at `target` in the root."""

    source: Path
    target: str
    read_only: bool = False


class View(msgspec.Struct, frozen=True):
    """What is to be mounted over `root`.

    `etc` and `var` are None where the root keeps its own. `holder`: another session that has the
    same /etc mounted: no two overlays may share an upper layer. `above`: layers of an overlay over
    the root, topmost first; only with writes that are thrown away.
    """

    root: Path
    binds: Sequence[Bind]
    writes: Writes = Writes.REFUSED
    etc: EtcPlace | None = None
    var: Path | None = None
    rootless: bool = False
    holder: Holder | None = None
    above: Sequence[Path] = ()


def etc_tag(etc: EtcPlace) -> str:
    """The name that the mount of an /etc overlay has in every /proc/PID/mountinfo."""
    status = os.stat(etc.upper)
    return f"hacktree-etc:{status.st_dev}:{status.st_ino}"


def build_filesystem(view: View) -> None:
    """Mount it all and make it `/`; the caller has a mount namespace of its own."""
    borrowed = _borrow_etc(view.holder) if view.holder is not None else None
    make_private()
    # Copied before anything is mounted: a source may lie above the root.
    sources = [
        (bind, clone_tree(bind.source, recursive=True), bind.source.is_dir()) for bind in view.binds
    ]
    var = clone_tree(view.var, recursive=False) if view.var is not None else None
    resolver = _clone_resolver()
    etc = _EtcLayers(view, view.etc) if view.etc is not None else None
    mount("tmpfs", _STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700")
    _mount_root(view, _skeleton(view))
    if etc is not None:
        etc.mount(borrowed)
    if var is not None:
        _mount_var(view, var)
    for target, kind, flags, options in _PLACES:
        mount(kind, _mount_point(view.root, target, directory=True), kind, flags, options)
    for bind, tree, is_directory in sources:
        place = _mount_point(view.root, bind.target, directory=is_directory)
        attach_tree(tree, place)
        if bind.read_only:
            make_read_only(place)
    if resolver is not None:
        _mount_resolver(view, resolver)
    pivot_into(view.root)


def resolve_inside(root: Path, path: str) -> str:
    """Where `path` leads within `root`, links followed as if `root` were `/`.

    Components that don't exist are taken as they are.
    """

    def link_at(path: bytes, *, goes_on: bool) -> bytes | None:
        try:
            return os.readlink(os.path.join(os.fsencode(root), path))
        except OSError:
            return None

    try:
        return "/" + os.fsdecode(follow_links(os.fsencode(path), link_at, last=True))
    except TooManyLinksError as error:
        raise MountPointError(f"{path}: too many symbolic links in {root.name}") from error


def _mount_point(root: Path, target: str, *, directory: bool) -> Path:
    """Where to mount on `target`, made if it is missing in what can be written."""
    place = root / resolve_inside(root, target).lstrip("/")
    try:
        if not place.exists():
            (place if directory else place.parent).mkdir(parents=True, exist_ok=True)
            if not directory:
                place.touch(exist_ok=False)
    except OSError as error:
        raise MountPointError(
            f"{root.name} has no {target} to mount on: {error.strerror}"
        ) from error
    if place.is_dir() != directory:
        kind = "no directory" if directory else "a directory"
        raise MountPointError(f"{target} in {root.name} is {kind}: nothing can be mounted on it")
    return place


def _skeleton(view: View) -> Path | None:
    """A directory with the mount points that the root lacks, or None if it lacks none."""
    skeleton = _STAGE / "skeleton"
    covered = [place[0] for place in _PLACES] + (["/var"] if view.var is not None else [])
    wanted = [(target, True) for target in covered]
    wanted += [(bind.target, bind.source.is_dir()) for bind in view.binds]
    for target, is_directory in wanted:
        inside = resolve_inside(view.root, target)
        if inside.startswith(tuple(f"{place}/" for place in covered)):
            continue
        if not os.path.lexists(view.root / inside.lstrip("/")):
            _add_to_skeleton(view.root, skeleton, inside.lstrip("/"), directory=is_directory)
    return skeleton if skeleton.exists() else None


def _add_to_skeleton(root: Path, skeleton: Path, path: str, *, directory: bool) -> None:
    skeleton.mkdir(mode=0o755, exist_ok=True)
    place = skeleton
    parts = path.split("/")
    for part in parts if directory else parts[:-1]:
        place = place / part
        place.mkdir(mode=0o755, exist_ok=True)
    if not directory:
        (place / parts[-1]).touch()


def _mount_root(view: View, skeleton: Path | None) -> None:
    if skeleton is None and view.writes is Writes.REFUSED:
        attach_tree(clone_tree(view.root, recursive=True), view.root)
    else:
        lowers = [*view.above, view.root, *([skeleton] if skeleton is not None else [])]
        if view.writes is Writes.REFUSED:
            _mount_overlay(view, view.root, lowers)
        else:
            _mount_scratch(view, view.root, lowers, "root")
    if view.writes is Writes.REFUSED:
        make_read_only(view.root)


def _mount_var(view: View, var: int) -> None:
    place = _mount_point(view.root, "/var", directory=True)
    attach_tree(var, place)
    if view.writes is Writes.THROWN_AWAY:
        _mount_scratch(view, place, [place], "var")


def _mount_scratch(view: View, target: Path, lowers: Sequence[Path | int], name: str) -> None:
    """An overlay whose upper layer is in memory; it goes with the namespace."""
    layers = _STAGE / "scratch" / name
    upper, work = layers / "upper", layers / "work"
    upper.mkdir(parents=True)
    work.mkdir()
    first = lowers[0]
    status = os.fstat(first) if isinstance(first, int) else os.stat(first)
    if not view.rootless:
        os.chown(upper, status.st_uid, status.st_gid)
    upper.chmod(stat.S_IMODE(status.st_mode))
    _mount_overlay(view, target, lowers, upper, work)


def _mount_overlay(
    view: View,
    target: Path,
    lowers: Iterable[Path | int],
    upper: Path | int | None = None,
    work: Path | int | None = None,
    source: str = "hacktree",
) -> None:
    """Mount an overlay of layers given by descriptor or path: names with ',' or ':' can't harm."""
    opened: list[int] = []

    def name(layer: Path | int) -> str:
        if isinstance(layer, int):
            return f"/proc/self/fd/{layer}"
        opened.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return f"/proc/self/fd/{opened[-1]}"

    try:
        options = f"{_OVERLAY},lowerdir=" + ":".join(name(layer) for layer in lowers)
        if upper is not None and work is not None:
            options += f",upperdir={name(upper)},workdir={name(work)}"
        if view.rootless:
            options += ",userxattr"
        flags = 0 if upper is not None else MS_RDONLY
        mount(source, target, "overlay", flags, options)
    except OSError as error:
        raise OverlayError(
            f"the kernel refused an overlay on {target}: {error.strerror}",
            hint="Its module must be loaded (modprobe overlay), and .ht must lie on a file system "
            "that can hold upper layers, such as ext4, xfs or btrfs.",
        ) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


class _EtcLayers:
    """The layers of a root's /etc, opened before the root is covered."""

    def __init__(self, view: View, etc: EtcPlace) -> None:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._view = view
        self._tag = etc_tag(etc)
        self._lower, self._upper, self._work = (
            os.open(path, flags) for path in (view.root / "etc", etc.upper, etc.work)
        )
        above = [layer / "etc" for layer in view.above]
        self._above = [os.open(path, flags) for path in above if path.is_dir()]

    def mount(self, borrowed: int | None) -> None:
        """Mount them, or what another session has mounted already."""
        view, target = self._view, self._view.root / "etc"
        skeleton = _STAGE / "etc"
        skeleton.mkdir(mode=0o755)
        (skeleton / "resolv.conf").touch()
        if view.writes is Writes.THROWN_AWAY:
            layers: list[Path | int] = [self._upper, *self._above, self._lower, skeleton]
            _mount_scratch(view, target, layers, "etc")
        elif borrowed is not None:
            attach_tree(borrowed, target)
        else:
            _mount_overlay(
                view, target, [self._lower, skeleton], self._upper, self._work, self._tag
            )


def _borrow_etc(holder: Holder) -> int:
    """The /etc that another session has mounted, as a tree to attach."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    here, there = (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in "/.")
    try:
        join_namespace(holder.mounts, CLONE_NEWNS)
        try:
            os.fchdir(holder.root)
            return clone_tree(holder.etc.lstrip("/"), recursive=False)
        finally:
            join_namespace(own, CLONE_NEWNS)
            os.fchdir(here)
            os.chroot(".")
            os.fchdir(there)
    finally:
        for descriptor in (own, here, there):
            os.close(descriptor)
        holder.close()


def _clone_resolver() -> int | None:
    """The host's resolv.conf, whatever it is a link to."""
    path = Path(_RESOLVER).resolve()
    return clone_tree(path, recursive=False) if path.is_file() else None


def _mount_resolver(view: View, resolver: int) -> None:
    place = view.root / resolve_inside(view.root, _RESOLVER).lstrip("/")
    if not place.exists() and place.parent != view.root / "etc":
        # A link into /run, say, to a file that a service of the root would make.
        place = _mount_point(view.root, _RESOLVER, directory=False)
    if place.is_file():
        attach_tree(resolver, place)
        make_read_only(place)
