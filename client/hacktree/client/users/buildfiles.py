"""The account files of a build, read from its commit: what is there before any step."""

import os
import stat
from collections.abc import Mapping
from typing import Final

import msgspec

from hacktree.client.beneath import resolve
from hacktree.client.users.accounts import FILES, MAX_FILE
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import Entry, FileEntry, SymlinkEntry
from hacktree.common.objects.walk import find_entry
from hacktree.common.repository.repository import Repository

ACCOUNT_PATHS: Final[Mapping[str, str]] = {
    **{name: f"etc/{name}" for name in FILES},
    # Read by nss-altfiles(5), as in trees made for ostree.
    "lib/passwd": "usr/lib/passwd",
    "lib/group": "usr/lib/group",
}
"""What `merge_people` calls the files of a root → their paths in it."""


class BuildFiles(msgspec.Struct, frozen=True):
    """Reads from one commit."""

    repository: Repository
    commit: Commit

    def account_files(self) -> dict[str, bytes | None]:
        """By their names in `ACCOUNT_PATHS`; raises `UserError` for one that is no small file."""
        return {name: self._read(path) for name, path in ACCOUNT_PATHS.items()}

    def has_program(self, path: str) -> bool:
        """Whether an absolute path names an executable file."""
        found = resolve(path, self._read_link)
        entry = self._find(found) if found else None
        return isinstance(entry, FileEntry) and bool(stat.S_IMODE(entry.mode) & 0o111)

    def _find(self, path: str) -> Entry | None:
        root = self.commit.root.id
        return find_entry(self.repository.load_tree, root, os.fsencode(path))

    def _read_link(self, path: str) -> str | None:
        entry = self._find(path)
        if isinstance(entry, SymlinkEntry):
            return os.fsdecode(entry.target)
        return None if entry is None else ""

    def _read(self, path: str) -> bytes | None:
        entry = self._find(path)
        if entry is None:
            return None
        if not isinstance(entry, FileEntry) or entry.size > MAX_FILE:
            raise UserError(
                f"/{display_path(os.fsencode(path))} of this build is not a file of at most "
                f"{MAX_FILE >> 20} MiB",
                hint="Users can't be merged into it: have the build mended.",
            )
        return b"".join(self.repository.read_content(entry))
