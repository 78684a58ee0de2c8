"""An archive repository laid out by hand, with secrets beside it and traps inside it."""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hacktree.common.repository.layout import Mode, init_repository

SECRET: Final = b"must never leave this machine"
MTIME: Final = 1_700_000_000
"""Of every file in the layout: Tue, 14 Nov 2023 22:13:20 GMT."""


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """An archive repository laid out by hand, as docs/format.md describes it."""

    directory: Path

    ref = "/refs/gnomeos/x86_64/builds"
    tail = "/branches/gnomeos/x86_64/builds/history/tail"
    page = f"/branches/gnomeos/x86_64/builds/history/{'ab' * 32}"
    meta = f"/objects/17/{'a9' * 31}.meta"
    file = f"/objects/2e/{'0b' * 31}.file.zst"
    large = f"/objects/ff/{'1f' * 31}.file.zst"
    empty = f"/objects/00/{'00' * 31}.file.zst"
    pack = f"/packs/{'d0' * 32}"
    segment = f"/graph/{'e5' * 32}"
    graph = "/graph/tail"
    dashboard = "/dashboard/index.html"
    dashboard_data = "/dashboard/dashboard.json"
    verdicts = "/dashboard/verdicts.json"

    @property
    def immutable(self) -> tuple[str, ...]:
        """URL paths of files that never change."""
        return (
            self.page,
            self.meta,
            self.file,
            self.large,
            self.empty,
            self.pack,
            self.segment,
        )

    @property
    def mutable(self) -> tuple[str, ...]:
        """URL paths of files that every build replaces."""
        shown = (self.dashboard, self.dashboard_data, self.verdicts)
        return (self.ref, self.tail, self.graph, *shown)

    def path(self, url_path: str) -> Path:
        """Where a URL path is on disk."""
        return self.directory / url_path.removeprefix("/")

    def content(self, url_path: str) -> bytes:
        """The bytes on disk."""
        return self.path(url_path).read_bytes()

    def write(self, url_path: str, content: bytes, *, mtime: int = MTIME) -> None:
        """Put a file in place by rename, as a repository does."""
        path = self.path(url_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / "tmp" / "new"
        temporary.write_bytes(content)
        os.utime(temporary, (mtime, mtime))
        temporary.rename(path)


@contextlib.contextmanager
def published_layout(directory: Path) -> Iterator[Published]:
    """Everything that is published and everything that must not be reachable, in `directory`."""
    init_repository(directory, Mode.ARCHIVE)
    layout = Published(directory)
    layout.write(layout.ref, b"5" * 64 + b"\n")
    layout.write(layout.tail, b"(\xb5/\xfd newest page")
    layout.write(layout.page, b"(\xb5/\xfd sealed page")
    layout.write(layout.meta, b"\x94\xa4tree" + bytes(range(256)))
    layout.write(layout.file, b"(\xb5/\xfd" + bytes(range(256)) * 40)
    layout.write(layout.large, b"".join(b"%015d\n" % line for line in range(200_000)))
    layout.write(layout.empty, b"")
    layout.write(layout.pack, b"\x9a\xa4pack" + bytes(range(256)) * 9000)
    layout.write(layout.segment, b"(\xb5/\xfd sealed segment")
    layout.write(layout.graph, b"(\xb5/\xfd newest edges")
    layout.write(layout.dashboard, b"<!DOCTYPE html><title>Build farm</title>")
    layout.write(layout.dashboard_data, b"{}\n")
    layout.write(layout.verdicts, b"{}\n")
    with contextlib.ExitStack() as held:
        _lay_out_secrets(layout)
        _set_traps(layout, held)
        yield layout


def _lay_out_secrets(layout: Published) -> None:
    directory = layout.directory
    for name in ("lock", "state/sessions", "tmp/staged", ".hidden", "refs/.hidden", "roots/os"):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(SECRET)
    for path in (directory / "format", directory.parent / "outside"):
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b"# " + SECRET + b"\n")
    for url_path in (f"{layout.file}.gz", f"{layout.file}.br", f"{layout.meta}.gz"):
        layout.write(url_path, SECRET)


def _set_traps(layout: Published, held: contextlib.ExitStack) -> None:
    """Things with published names that are not published files."""
    directory = layout.directory
    objects = directory / "objects" / "17"
    (objects / f"{'c1' * 31}.meta").symlink_to("../../../outside")
    (objects / f"{'c2' * 31}.meta").symlink_to(directory.parent / "outside")
    (objects / f"{'c3' * 31}.meta").symlink_to(f"{'a9' * 31}.meta")
    (objects / f"{'c4' * 31}.meta").symlink_to("../../state/sessions")
    (objects / f"{'c5' * 31}.meta").mkdir()
    os.mkfifo(objects / f"{'c6' * 31}.meta")
    listening = held.enter_context(socket.socket(socket.AF_UNIX))
    # A socket's whole path is limited to some 100 bytes; one in a directory that is open is not.
    parent = os.open(objects, os.O_RDONLY)
    held.callback(os.close, parent)
    listening.bind(f"/proc/self/fd/{parent}/{'c7' * 31}.meta")
    (directory / "objects" / "c8").symlink_to("17")
    (directory / "refs" / "linked").symlink_to("../state")
    (directory / "refs" / "link").symlink_to("gnomeos/x86_64/builds")
    (directory / "branches" / "linked").symlink_to("gnomeos")
    (directory / "refs" / "loop").symlink_to("loop")
    (directory / "packs" / ("c9" * 32)).symlink_to("../state/sessions")
    (directory / "graph" / ("ca" * 32)).symlink_to("tail")
    (directory / "packs" / ("cb" * 32)).mkdir()


TRAPS: Final = (
    *(f"/objects/17/{digits * 31}.meta" for digits in ("c1", "c2", "c3", "c4", "c5", "c6", "c7")),
    f"/objects/c8/{'a9' * 31}.meta",
    "/refs/linked/sessions",
    "/refs/link",
    "/refs/loop",
    "/refs/gnomeos",
    "/refs/gnomeos/x86_64",
    "/branches/linked/x86_64/builds/history/tail",
    f"/packs/{'c9' * 32}",
    f"/graph/{'ca' * 32}",
    f"/packs/{'cb' * 32}",
)
