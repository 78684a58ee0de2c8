"""Installing this machine's packages on a root: one step of the replay for all of them.

The host's programs work on the root: it needs neither rpm nor dpkg. All packages of a kind are one
transaction, since they may need one another. Nothing is ever removed with rpm or dpkg: the next
root is made without the package. docs/adr/0024-extensions.md.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from hacktree.client.beneath import Attributes, make_directory, replace_file
from hacktree.client.extensions import deb, rpm
from hacktree.client.extensions.checking import conflicts_with, explain, of_kind
from hacktree.client.extensions.conflicts import describe
from hacktree.client.extensions.package import Kind
from hacktree.client.extensions.programs import require_program
from hacktree.client.extensions.store import Extension, Stored, list_stored, open_stored
from hacktree.client.extensions.treeview import TreeView
from hacktree.client.replay.step import Build, Root, Step, StepFailedError
from hacktree.client.roots import read_record
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.ids import ObjectId

_VERSION: Final = b"hacktree extensions 1"
"""Changes whenever the same packages would be installed otherwise."""

_SECONDS: Final = 1800.0
_MAX_LINES: Final = 20
_MAX_NAMES: Final = 4
_FILE: Final = Attributes(0o644, None)


class ExtensionSource:
    """The step that installs what is in `extensions.d`; no step if that is empty."""

    def steps(self, build: Build) -> Sequence[Step]:
        """Raises `UserError` for files that others can write, `ProgramMissingError`."""
        stored = list_stored(build.sysroot)
        for suffix, program in ((".rpm", "rpm"), (".deb", "dpkg")):
            if any(one.file.suffix == suffix for one in stored):
                require_program(program)
        return [ExtensionStep(tuple(stored))] if stored else []


class ExtensionStep(msgspec.Struct, frozen=True):
    """Installs the packages `stored`."""

    stored: tuple[Stored, ...]

    @property
    def name(self) -> str:
        """Which packages, as far as that is short."""
        names = [one.file.stem for one in self.stored]
        return f"extensions {', '.join(names)}" if len(names) <= _MAX_NAMES else "extensions"

    @property
    def digest(self) -> bytes:
        """Of the files and what is allowed to each; their names don't matter."""
        parts = [
            one.digest + hashlib.sha256(repr(one.options).encode()).digest() for one in self.stored
        ]
        return hashlib.sha256(_VERSION + b"".join(sorted(parts))).digest()

    def apply(self, root: Root) -> None:
        """Check for conflicts, then install the RPMs, then the debs."""
        build = root.build
        view = TreeView(build.sysroot.repository, build.commit)
        try:
            extensions = open_stored(list(self.stored))
            conflicts = conflicts_with(view, extensions)
        except HacktreeError as error:
            raise StepFailedError(error.message, hint=error.hint) from error
        if conflicts:
            raise StepFailedError(
                f"conflicts of {len(conflicts)} files, first {conflicts[0]}",
                hint="`hacktree extension add FILE --replace PATTERN` lets one replace what the "
                "build has.",
                log="\n".join(describe(conflicts, most=_MAX_LINES)),
            )
        if rpms := of_kind(extensions, "rpm"):
            root.say(f"rpm: {', '.join(str(e.package) for e in rpms)}")
            _install_rpms(root, view, rpms)
        if debs := of_kind(extensions, "deb"):
            root.say(f"dpkg: {', '.join(str(e.package) for e in debs)}")
            _install_debs(root, view, debs)


def _install_rpms(root: Root, view: TreeView, extensions: Sequence[Extension]) -> None:
    database = rpm.database_of(view)
    command = ["rpm", "--root", str(root.path), *rpm.settings(f"/{database}")]
    with make_directory(root.path, database):
        pass
    root.run([*command, "--initdb"], inside=False)
    base = f"tmp/{rpm.BASE}"
    replace_file(root.path, base, rpm.base_of(view, extensions), _FILE)
    root.run([*command, "-i", "--justdb", "--force", str(root.path / base)], inside=False)
    with make_directory(root.path, "tmp") as directory:
        os.unlink(rpm.BASE, dir_fd=directory)
    options = rpm.install_options(view, extensions)
    files = [str(extension.package.file) for extension in extensions]
    said = _install(root, "rpm", view, [*command, *options, *files])
    if rpm.SCRIPTLET_FAILED.search(said):
        raise StepFailedError(
            "a script of a package failed",
            hint="Ask whoever made the package, or `hacktree extension remove` it.",
            log=rpm.without_advice(said),
        )
    with make_directory(root.path, database) as directory:
        for name in rpm.LEFTOVERS:
            _drop_empty(directory, name)


def _drop_empty(directory: int, name: str) -> None:
    """What SQLite leaves behind; a log with content would be part of the database."""
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and (status.st_size == 0 or name.endswith("-shm")):
            os.unlink(name, dir_fd=directory)


def _install_debs(root: Root, view: TreeView, extensions: Sequence[Extension]) -> None:
    status = deb.status_of(view, extensions).encode("utf-8", "surrogateescape")
    replace_file(root.path, f"{deb.DATABASE}/status", status, _FILE)
    for part in deb.PARTS:
        with make_directory(root.path, f"{deb.DATABASE}/{part}"):
            pass
    replace_file(root.path, f"{deb.DATABASE}/info/hacktree-base.list", b"/.\n", _FILE)
    command = ["dpkg", f"--root={root.path}", *deb.INSTALL, "--install"]
    _install(root, "deb", view, [*command, *(str(e.package.file) for e in extensions)])


def _install(root: Root, kind: Kind, view: TreeView, command: list[str]) -> str:
    """Run it, without network; what it misses is explained by the builds before."""
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        return root.run(command, inside=False, environment=environment, seconds=_SECONDS)
    except StepFailedError as error:
        since = explain(kind, view, _live_commit(root.build), error.log)
        raise StepFailedError(
            f"they don't install on this build: {since[0] if since else error.message}",
            hint="`hacktree extension check` tries without a deploy; `extension remove` drops one.",
            log="\n".join([rpm.without_advice(error.log), *since]),
        ) from error


def _live_commit(build: Build) -> ObjectId | None:
    record = read_record(build.sysroot, build.previous.name) if build.previous else None
    return record.commit_id if record else None
