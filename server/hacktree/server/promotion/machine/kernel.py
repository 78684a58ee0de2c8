"""A build's own kernel, and the modules by which it finds its disks in a virtual machine.

The tree was pushed by others. No symbolic link in it is followed, only regular files are read, and
each is bounded. What a module needs is read from the module: that is where depmod(8) has it from,
and a tree that no package manager has configured has no modules.dep.
"""

import lzma
import os
import re
import stat
import zlib
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.server.beneath import open_beneath
from hacktree.server.promotion.verdicts import Finding, Outcome

MAX_KERNEL: Final = 256 << 20
MAX_MODULE: Final = 64 << 20
"""Bytes, as it lies there and decompressed."""

MAX_MODULES: Final = 64
"""To be loaded; Debian 12 takes 13."""

_WANTED: Final = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
_HELPFUL: Final = ("crc32c_generic",)
"""ext4 asks for it by an alias, not as a module that it depends on; not all kernels have it."""

_MAX_BUILT_IN: Final = 1 << 20
_PLACES: Final = (Path("usr/lib/modules"), Path("lib/modules"))
_RELEASE: Final = re.compile(r"[\w.+~-]{1,60}", re.ASCII)
_MODULE: Final = re.compile(r"([\w-]{1,60})\.ko(?:\.(?:xz|gz|zst))?", re.ASCII)
_NEEDS: Final = re.compile(rb"(?<!\w)depends=([\w,-]{1,4000})\0")


class UnfitBuildError(Exception):
    """A build that can't be booted, and what that says of it: for a verdict, not for a person."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.finding = Finding(outcome, reason)


class Kernel(msgspec.Struct, frozen=True):
    """`release` is what `uname -r` says; `modules` are in the order in which they are loaded."""

    release: str
    image: bytes
    modules: tuple[bytes, ...]


def find_kernel(root: Path) -> Kernel:
    """The newest kernel of a tree in which nobody writes; one with modules before one without.

    Raises `UnfitBuildError`: a fail without a kernel, inconclusive if the kernel lacks a driver.
    """
    images = {path.name.removeprefix("vmlinuz-"): path for path in _below(root, Path("boot"))}
    images = {r: path for r, path in images.items() if path.name == f"vmlinuz-{r}"}
    directories = {
        path.name: path
        for place in _PLACES
        for path in _below(root, place)
        if stat.S_ISDIR((root / path).lstat().st_mode)
    }
    for release, directory in directories.items():
        if _is_file(root / directory / "vmlinuz"):
            images[release] = directory / "vmlinuz"
    found = [r for r, path in images.items() if _RELEASE.fullmatch(r) and _is_file(root / path)]
    if not found:
        raise UnfitBuildError(
            Outcome.FAIL, "it has no kernel: no /boot/vmlinuz-*, no /usr/lib/modules/*/vmlinuz"
        )
    release = max(found, key=lambda name: (name in directories, _age(name)))
    image = _read(root, images[release], MAX_KERNEL)
    # Without modules it has everything built in, or it will say itself that it lacks a driver.
    modules = _load_order(root, directories[release]) if release in directories else ()
    return Kernel(release, image, modules)


def _below(root: Path, directory: Path) -> list[Path]:
    """What a directory of the tree holds, relative to `root`; nothing if a link leads there."""
    place = root
    for part in directory.parts:
        place /= part
        if place.is_symlink() or not place.is_dir():
            return []
    return sorted(path.relative_to(root) for path in place.iterdir())


def _is_file(path: Path) -> bool:
    return path.exists() and stat.S_ISREG(path.lstat().st_mode)


def _age(release: str) -> tuple[tuple[int, str], ...]:
    """Sorts 6.9 before 6.10~rc1 before 6.10 before 6.10-1."""
    parts = re.findall(r"\d+|[a-z]+|~", release.replace("-rc", "~").lower())
    ages = [(int(part), "") if part.isdigit() else (-2 * (part == "~"), part) for part in parts]
    return (*ages, (-1, ""))


def _load_order(root: Path, directory: Path) -> tuple[bytes, ...]:
    """The modules that are wanted, each after those that it needs."""
    known = _modules(root, directory)
    built_in = _built_in(root, directory)
    order: dict[str, bytes] = {}
    entered: set[str] = set()

    def load(name: str) -> None:
        if name in entered or name not in known:
            return
        entered.add(name)
        if len(entered) > MAX_MODULES:
            raise UnfitBuildError(Outcome.FAIL, f"its kernel needs more than {MAX_MODULES} modules")
        data = _module(root, known[name])
        for needed in _NEEDS.findall(data):
            for other in needed.decode("ascii").split(","):
                load(other.replace("-", "_"))
        order[name] = data

    for name in (*_HELPFUL, *_WANTED):
        if name in _WANTED and name not in known and name not in built_in:
            raise UnfitBuildError(
                Outcome.INCONCLUSIVE,
                f"its kernel {directory.name} has no {name}, which a virtual machine needs",
            )
        load(name)
    return tuple(order.values())


def _modules(root: Path, directory: Path) -> dict[str, Path]:
    found = {}
    for where, names, files in os.walk(root / directory):
        names.sort()
        for name in sorted(files):
            match = _MODULE.fullmatch(name)
            if match is not None:
                found[match[1].replace("-", "_")] = Path(where, name).relative_to(root)
    return found


def _built_in(root: Path, directory: Path) -> set[str]:
    if not _is_file(root / directory / "modules.builtin"):
        return set()
    text = _read(root, directory / "modules.builtin", _MAX_BUILT_IN).decode("utf-8", "replace")
    return {Path(line).stem.replace("-", "_") for line in text.splitlines()}


def _module(root: Path, path: Path) -> bytes:
    """A module as the kernel takes it: initramfs tools can't all decompress."""
    data = _read(root, path, MAX_MODULE)
    try:
        match path.suffix:
            case ".xz":
                unpacker = lzma.LZMADecompressor(memlimit=4 * MAX_MODULE)
                data = unpacker.decompress(data, MAX_MODULE)
                whole = unpacker.eof
            case ".gz":
                inflater = zlib.decompressobj(wbits=31)
                data = inflater.decompress(data, MAX_MODULE)
                whole = inflater.eof
            case ".zst":
                data, whole = decompress_bounded(data, MAX_MODULE), True
            case _:
                whole = True
    except (lzma.LZMAError, zlib.error, FormatError):
        whole = False
    if not whole:
        raise UnfitBuildError(Outcome.FAIL, f"its {path.name} can't be decompressed")
    return data


def _read(root: Path, path: Path, limit: int) -> bytes:
    descriptor, status = open_beneath(root, path.parts)
    with open(descriptor, "rb") as stream:
        if status.st_size > limit:
            raise UnfitBuildError(Outcome.FAIL, f"its {path.name} exceeds {limit} bytes")
        return stream.read(limit)
