"""`hacktree ls`."""

import argparse
import os
import stat
from collections.abc import Iterator

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, show
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry
from hacktree.common.objects.walk import find_entry, walk_tree
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve


class PathMissingError(UserError):
    """The commit has no such path."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("path", metavar="PATH", nargs="?", default="/")
    parser.add_argument("--recursive", "-R", action="store_true", help="everything below")
    parser.add_argument("--ids", action="store_true", help="print the content's sha256 too")
    parser.epilog = """\
Examples:
  hacktree ls fastqa /usr/bin
  hacktree ls -R --ids fastqa /etc

Exit statuses: 0 done, 2 there is no such revision or path."""


def run(args: argparse.Namespace) -> int:
    """List entries."""
    repository = repository_from(args)
    root = repository.load_commit(resolve(repository, args.revision)).root.id
    listed = _entries(
        repository, root, os.fsencode(args.path).strip(b"/"), recursive=args.recursive
    )
    if args.json:
        emit_json([_json(path, entry) for path, entry in listed])
        return 0
    for path, entry in listed:
        show(_line(path, entry, ids=args.ids))
    return 0


def _entries(
    repository: Repository, root: ObjectId, path: bytes, *, recursive: bool
) -> Iterator[tuple[bytes, Entry]]:
    start = root
    if path:
        entry = find_entry(repository.load_tree, root, path)
        if entry is None:
            raise PathMissingError(f"/{display_path(path)} is not in that commit")
        if not isinstance(entry, DirectoryEntry):
            yield path, entry
            return
        start = entry.id
    prefix = path + b"/" if path else b""
    if recursive:
        for below, entry in walk_tree(repository.load_tree, start):
            yield prefix + below, entry
        return
    for entry in repository.load_tree(start).entries:
        yield prefix + entry.name, entry


def _line(path: bytes, entry: Entry, *, ids: bool) -> str:
    kind = {
        FileEntry: stat.S_IFREG,
        DirectoryEntry: stat.S_IFDIR,
        SymlinkEntry: stat.S_IFLNK,
    }
    bits = 0o777 if isinstance(entry, SymlinkEntry) else entry.mode
    size = entry.size if isinstance(entry, FileEntry) else 0
    words = [
        stat.filemode(kind[type(entry)] | bits),
        f"{entry.uid:>5} {entry.gid:>5} {size:>12}",
    ]
    if ids:
        words.append("-" * 64 if isinstance(entry, SymlinkEntry) else entry.id.hex())
    target = f" -> {display_path(entry.target)}" if isinstance(entry, SymlinkEntry) else ""
    return " ".join([*words, "/" + display_path(path) + target])


def _json(path: bytes, entry: Entry) -> dict[str, object]:
    document: dict[str, object] = {
        "path": "/" + display_path(path),
        "uid": entry.uid,
        "gid": entry.gid,
    }
    if isinstance(entry, SymlinkEntry):
        return document | {"kind": "symlink", "target": display_path(entry.target)}
    kind = "file" if isinstance(entry, FileEntry) else "directory"
    document |= {"kind": kind, "mode": f"{entry.mode:04o}", "id": entry.id.hex()}
    if isinstance(entry, FileEntry):
        document["size"] = entry.size
    if entry.xattrs:
        document["xattrs"] = {name: value.hex() for name, value in entry.xattrs}
    return document
