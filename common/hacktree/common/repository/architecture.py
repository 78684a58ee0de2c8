"""The architecture of a tree, read from the ELF header of a program that every OS has."""

from collections.abc import Iterable
from typing import Final

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import find_entry
from hacktree.common.repository.repository import Repository

_CANDIDATES: Final = (
    b"usr/bin/env",
    b"bin/env",
    b"usr/bin/bash",
    b"bin/bash",
    b"usr/bin/busybox",
    b"bin/busybox",
    b"usr/lib/systemd/systemd",
)
_MACHINES: Final = {3: "i686", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64"}
_WITH_BOTH_ENDS: Final = {21: {1: "ppc64le", 2: "ppc64"}, 243: {1: "riscv64"}}


def detect_architecture(repository: Repository, root: ObjectId) -> str:
    """`x86_64`, `aarch64`…, as uname(1) names it; empty when the tree holds no known program."""
    for path in _CANDIDATES:
        entry = find_entry(repository.load_tree, root, path)
        if isinstance(entry, FileEntry) and entry.size >= 20:
            return _machine_of(_first_bytes(repository.read_content(entry)))
    return ""


def _first_bytes(chunks: Iterable[bytes]) -> bytes:
    return b"".join(chunks)[:20]


def _machine_of(header: bytes) -> str:
    if header[:4] != b"\x7fELF":
        return ""
    order = header[5]
    machine = int.from_bytes(header[18:20], "little" if order == 1 else "big")
    if machine in _WITH_BOTH_ENDS:
        return _WITH_BOTH_ENDS[machine].get(order, "")
    return _MACHINES.get(machine, "")
