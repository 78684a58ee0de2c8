"""Which object files are here, and which of them a commit needs.

Everything that asks "may this go?" or "is this whole?" works on the *names* of object files: in the
bare modes a tree needs a variant (content under attributes), not merely a content id.
"""

import os
import re
from collections.abc import Container, Iterable, Iterator
from typing import Final

import msgspec

from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.objects.walk import LoadTree
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import META_SUFFIX, content_name, meta_name
from hacktree.common.repository.repository import Repository

_DIRECTORY = re.compile(r"[0-9a-f]{2}")
_META: Final = r"[0-9a-f]{62}\.meta"
_NAMES: Final = {
    Mode.ARCHIVE: re.compile(_META + r"|[0-9a-f]{62}\.file\.zst"),
    Mode.BARE: re.compile(_META + r"|[0-9a-f]{62}\.\d+-\d+-[0-7]{4}(?:-[0-9a-f]{16})?\.file"),
    Mode.BARE_USER: re.compile(_META + r"|[0-9a-f]{62}\.[0-7]{4}\.file"),
}

TREE_MAGIC: Final = b"\x93\xa4tree"
"""How every encoded tree begins: an array of three, the first being the text 'tree'."""


class ObjectListing(msgspec.Struct, frozen=True):
    """The object files by name, and what else lies in objects/; both relative to objects/."""

    names: list[str]
    foreign: list[str]


def list_objects(repository: Repository) -> ObjectListing:
    """List objects/ in the order of its directories."""
    pattern = _NAMES[repository.mode]
    names: list[str] = []
    foreign: list[str] = []
    for directory in sorted(os.listdir(repository.objects)):
        path = f"{repository.objects}/{directory}"
        if not _DIRECTORY.fullmatch(directory) or not os.path.isdir(path):
            foreign.append(directory)
            continue
        for name in os.listdir(path):
            known = names if pattern.fullmatch(name) else foreign
            known.append(f"{directory}/{name}")
    return ObjectListing(names, foreign)


def object_id_of(name: str) -> ObjectId:
    """The id in the name of an object file."""
    return ObjectId(bytes.fromhex(name[:2] + name[3:65]))


def mark_commit(
    load: LoadTree,
    mode: Mode,
    commit_id: ObjectId,
    commit: Commit,
    marked: set[str],
    known: Container[str] = (),
) -> None:
    """Add to `marked` the names of everything the commit needs, except what is in `known`.

    A tree whose name is marked or known counts as walked already. What `load` raises passes
    through, and leaves `marked` useless.
    """
    marked.add(meta_name(commit_id))
    stack = [commit.root.id]
    while stack:
        tree_id = stack.pop()
        name = meta_name(tree_id)
        if name in marked or name in known:
            continue
        marked.add(name)
        for entry in load(tree_id).entries:
            if isinstance(entry, FileEntry):
                marked.add(content_name(mode, entry))
            elif isinstance(entry, DirectoryEntry):
                stack.append(entry.id)


def find_commits(repository: Repository, names: Iterable[str]) -> Iterator[str]:
    """The names, of those given, that hold a commit; damaged metas count as commits.

    Prune deletes commits before anything they need, so the doubtful ones belong with them.
    """
    for name in names:
        if not name.endswith(META_SUFFIX):
            continue
        try:
            with open(f"{repository.objects}/{name}", "rb", buffering=0) as stream:
                magic = stream.read(len(TREE_MAGIC))
        except FileNotFoundError:
            continue
        if magic != TREE_MAGIC:
            yield name
