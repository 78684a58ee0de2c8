"""A reader of what a farm publishes, who follows every name in it, as fast as they change."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hacktree.common.objects.history import MAX_PAGE_SIZE, decode_page, verified_chain
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.common.repository.packs import list_edges, read_head
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.editing import signed_heads
from hacktree.common.trust.store import TrustStore

_PAUSE = 0.1
"""Seconds between two rounds: the jobs need the processor too."""


class Reader:
    """Remembers which commits it has seen whole: objects never change."""

    def __init__(self, farm: Repository) -> None:
        self._farm = farm
        self._whole: set[ObjectId] = set()
        self.rounds = 0

    def check(self) -> None:
        """Everything that is named is there; raises `AssertionError` and what reading raises."""
        store = TrustStore(self._farm)
        if store.exists:
            for head in signed_heads(store.load()).values():
                self._check_build(head)
        for branch, head in list_refs(self._farm).items():
            self._check_build(head)
            self._check_history(branch, head)
        for edge in list_edges(self._farm):
            read_head(self._farm, edge)
        self._check_dashboard()
        self.rounds += 1

    def _check_build(self, build: ObjectId) -> None:
        if build not in self._whole:
            self._check_tree(self._farm.load_commit(build).root.id)
            self._whole.add(build)

    def _check_tree(self, tree: ObjectId) -> None:
        for entry in self._farm.load_tree(tree).entries:
            if isinstance(entry, DirectoryEntry):
                self._check_tree(entry.id)
            elif isinstance(entry, FileEntry):
                path = f"{entry.id.hex()[:2]}/{entry.id.hex()[2:]}.file.zst"
                assert (self._farm.objects / path).exists(), f"{path} is named and not there"

    def _check_history(self, branch: str, head: ObjectId) -> None:
        directory = self._farm.path / "branches" / branch / "history"
        commits: list[bytes] = []
        name = "tail"
        while name:
            data = (directory / name).read_bytes()
            assert name in ("tail", hash_bytes(data).hex())
            page = decode_page(decompress_bounded(data, MAX_PAGE_SIZE))
            commits.extend(page.commits)
            name = page.older.hex()
        found = [build for build, _, _ in verified_chain(head, commits)]
        assert found, f"{branch} is at a build that its history lacks"
        for build in found:
            self._check_build(build)

    def _check_dashboard(self) -> None:
        path = self._farm.path / "dashboard/dashboard.json"
        if not path.exists():
            return
        state = json.loads(path.read_bytes())
        for branch in state["branches"]:
            names = [branch["head"], *(build["id"] for build in branch["builds"])]
            for name in filter(None, names):
                self._check_build(ObjectId(bytes.fromhex(name)))
        for pack in state["packs"]:
            assert (self._farm.path / "packs" / pack["id"]).exists()
        page = Path(path.with_name("index.html"))
        assert not page.exists() or page.read_text().endswith("</html>")


@contextmanager
def always_read(farm: Repository) -> Iterator[Reader]:
    """Read again and again in a thread; what it finds wrong is raised at the end of the block."""
    reader, stop, wrong = Reader(farm), threading.Event(), []

    def work() -> None:
        try:
            while not stop.wait(_PAUSE):
                reader.check()
        except BaseException as error:  # noqa: BLE001 - raised by who waits for this thread
            wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield reader
    finally:
        stop.set()
        thread.join()
        if wrong:
            raise wrong[0]
