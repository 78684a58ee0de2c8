"""Refs: which commit is the head of which branch. A ref moves by compare-and-swap."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hacktree.common.errors import BusyError, CorruptError, UserError
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import BranchName, branch_conflict, parse_branch_name
from hacktree.common.repository.durable import (
    TEMPORARY_SUFFIX,
    make_directories,
    remove_durably,
    replace_published,
)
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.repository import Repository

REF_SIZE: Final = 65
"""Bytes of a ref file: 64 hexadecimal digits and a newline."""


class RefConflictError(BusyError):
    """The ref is no longer where the caller saw it."""


class BranchMissingError(UserError):
    """There is no such branch."""


def parse_ref(data: bytes) -> ObjectId:
    """The id in a ref file's bytes; raises `NameInvalidError` for anything but id and newline."""
    if len(data) != REF_SIZE or not data.endswith(b"\n"):
        raise NameInvalidError("a ref holds 64 hexadecimal digits and a newline")
    return parse_object_id(data[:-1].decode("ascii", "replace"))


def ref_name_of_remote(remote: str, branch: BranchName) -> str:
    """The local name of what was last pulled: `remotes/<remote>/<branch>`."""
    return f"remotes/{remote}/{branch}"


def read_ref(repository: Repository, name: str) -> ObjectId | None:
    """The head of a branch or remote branch, or None."""
    path = repository.path / "refs" / name
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        return parse_ref(data)
    except NameInvalidError as error:
        raise CorruptError(
            f"{path} is damaged: {error}", hint="Delete it and pull or commit again."
        ) from error


def list_refs(repository: Repository) -> dict[str, ObjectId]:
    """All refs by name, sorted; remote ones begin with `remotes/`."""
    base = repository.path / "refs"
    found: dict[str, ObjectId] = {}
    for directory, _, names in os.walk(base):
        for name in names:
            if name.endswith(TEMPORARY_SUFFIX):
                continue
            relative = os.path.relpath(os.path.join(directory, name), base)
            head = read_ref(repository, relative)
            if head is not None:
                found[relative] = head
    return dict(sorted(found.items()))


@contextmanager
def hold_refs(repository: Repository) -> Iterator[None]:
    """Serialise whoever moves refs; short."""
    path = repository.state / "refs.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE, timeout=60):
        yield


def move_ref(
    repository: Repository, name: str, new: ObjectId, *, expected: ObjectId | None
) -> None:
    """Point `name` at `new` if it is at `expected` (None: absent). The caller holds `hold_refs`.

    Everything that `new` reaches must be durable already (invariant 1).
    """
    current = read_ref(repository, name)
    if current == new:
        return
    if current != expected:
        raise RefConflictError(
            f"{name} moved to {current.hex() if current else 'nothing'} meanwhile",
            hint="Run the command again: it will start from the new head.",
        )
    conflict = branch_conflict(BranchName(name), list_refs(repository))
    if conflict is not None:
        raise UserError(f"{name} can't stand beside the branch {conflict}: choose another name")
    public = repository.mode is Mode.ARCHIVE
    path = Path("refs") / name
    make_directories(repository.path, path.parent, mode=0o755 if public else 0o700)
    replace_published(
        repository.path / path,
        f"{new.hex()}\n".encode(),
        mode=0o644 if public else 0o600,
    )


def delete_ref(repository: Repository, name: str) -> None:
    """Delete a branch; what only it reached goes with the next prune."""
    with hold_refs(repository):
        if read_ref(repository, name) is None:
            raise BranchMissingError(f"there is no branch {name}")
        remove_durably(repository.path / "refs" / name)


def check_ref_name(name: str) -> str:
    """A branch name or `remotes/<remote>/<branch>`; raises `NameInvalidError`."""
    if name.startswith("remotes/"):
        _, _, rest = name.partition("/")
        remote, _, branch = rest.partition("/")
        parse_branch_name(remote)
        return ref_name_of_remote(remote, parse_branch_name(branch))
    return parse_branch_name(name)
