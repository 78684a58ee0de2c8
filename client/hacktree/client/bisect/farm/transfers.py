"""What it takes to bring the builds of a line, kept in `.ht/state/bisect/builds.zst`.

A cache: where it is missing or of another line, as after an import, the line is read again. So is
the pack graph (`graphcache.py`). Both are hints: what can't be read costs bytes and fails nothing.
With it are the commits that history had: fetched one by one they are larger than all of its page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hacktree.client.bisect.core.model import MAX_LINE, Candidate, CommitId
from hacktree.client.bisect.core.state import State
from hacktree.client.bisect.farm.costs import BuildTree, estimate_costs
from hacktree.client.bisect.farm.fetching import BuildRequest
from hacktree.client.bisect.farm.forecast import Orders, compare_orders
from hacktree.client.bisect.farm.graphcache import forget_graph, keep_graph, read_graph_kept
from hacktree.client.bisect.farm.reading import read_again, read_graph
from hacktree.client.memory import Memory
from hacktree.client.packs import held_trees
from hacktree.client.remote import Remote
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.prefer import Prefer
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.objects.zstandard import compress, decompress_bounded
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.repository import Repository

_FILE: Final = Path("bisect/builds.zst")
_MAX_COMMITS: Final = 32 << 20
"""Bytes of commits that are kept; others are fetched with their builds."""

_MAX_SIZE: Final = _MAX_COMMITS + 256 * MAX_LINE
_LEVEL: Final = 3

_Kept = dict[CommitId, tuple[CommitId, Annotated[int, Meta(ge=0, le=1 << 50)], bytes]]
_DECODER: Final = msgspec.msgpack.Decoder(_Kept)


class Transfers(msgspec.Struct):
    """What is known of the way to each build of the lines of one process.

    `received`: bytes that asking took since it was last set to 0. `memory`: what pulls leave to
    one another.
    """

    repository: Repository
    received: int = 0
    memory: Memory = msgspec.field(default_factory=Memory)
    _note: str = ""
    _line: tuple[str, str] = ("", "")
    _trees: Mapping[str, BuildTree] = {}
    _edges: Sequence[Edge] = ()

    def learn(
        self,
        remote: Remote,
        line: Sequence[Candidate],
        trees: Mapping[str, BuildTree] | None = None,
    ) -> None:
        """Know the way to the builds of `line`; what can't be known is noted.

        `trees`: of its builds, if they were just read.
        """
        ends = (line[0].commit, line[-1].commit)
        if self._line == ends:
            return
        self._line = ends
        try:
            if trees is None:
                self._trees = self._read_trees(remote, line)
                self._edges = read_graph_kept(self.repository, self._behind)
                if self._edges:
                    return
            else:
                self._trees = trees
            graph = read_graph(remote, {build.tree for build in self._trees.values()})
        except (HacktreeError, OSError) as error:
            self._note = f"what builds cost is not known: {error}"
            self._edges = ()
            return
        self._edges = graph.value.edges
        self._note = graph.value.note
        self.received += graph.received
        if trees is None:
            keep_graph(self.repository, self._edges, self._behind)

    def keep(self) -> None:
        """Keep what is known for the commands to come."""
        keep_trees(self.repository, self._trees)
        keep_graph(self.repository, self._edges, self._behind)

    @property
    def _behind(self) -> set[ObjectId]:
        """Trees of the line but for its older end, which packs often don't lead to."""
        return {build.tree for commit, build in self._trees.items() if commit != self._line[0]}

    def take_note(self) -> str:
        """What could not be read, once: empty until there is something new to say."""
        note, self._note = self._note, ""
        return note

    @property
    def edges(self) -> Sequence[Edge]:
        """Of the pack graph."""
        return self._edges

    def request(self, build: Candidate, prefer: Prefer = Prefer.AUTO) -> BuildRequest:
        """To bring a build of the line."""
        known = self._trees.get(build.commit)
        return BuildRequest(
            parse_branch_name(build.branch),
            parse_object_id(build.commit),
            prefer=prefer,
            data=b"" if known is None else known.commit,
            edges=self._edges,
            memory=self.memory,
        )

    @property
    def trees(self) -> Mapping[str, BuildTree]:
        """By commit; of the line that was learnt last."""
        return self._trees

    def held(self) -> frozenset[ObjectId]:
        """Trees that are here."""
        return frozenset(held_trees(self.repository))

    def costs(self, line: Sequence[Candidate]) -> dict[str, int]:
        """Bytes to bring each build, by commit; those that can't be known are left out.

        A commit that is here has everything it reaches (docs/adr/0002).
        """
        costs = estimate_costs(self._trees, self.held(), self._edges)
        has = self.repository.has_meta
        here = [build.commit for build in line if has(parse_object_id(build.commit))]
        return costs | dict.fromkeys(here, 0)

    def orders(self, state: State, priors: Mapping[str, int]) -> Orders | None:
        """As `forecast.compare_orders`."""
        if self.repository.has_meta(parse_object_id(state.before.commit)):
            return None
        return compare_orders(state, self._trees, self.held(), self._edges, priors)

    def _read_trees(self, remote: Remote, line: Sequence[Candidate]) -> Mapping[str, BuildTree]:
        kept = read_trees(self.repository)
        if all(build.commit in kept for build in line):
            return {build.commit: kept[build.commit] for build in line}
        branch = parse_branch_name(line[0].branch)
        read = read_again(self.repository, remote, branch, line[0].commit, line[-1].commit)
        self.received += read.received
        keep_trees(self.repository, read.value.trees)
        return read.value.trees


def read_trees(repository: Repository) -> dict[str, BuildTree]:
    """What is kept; nothing if that is damaged: it is only a cache."""
    try:
        with (repository.state / _FILE).open("rb") as stream:
            data = stream.read(_MAX_SIZE)
        kept = _DECODER.decode(decompress_bounded(data, _MAX_SIZE))
    except (FileNotFoundError, FormatError, msgspec.MsgspecError, UnicodeError):
        return {}
    return {
        commit: BuildTree(parse_object_id(tree), size, data)
        for commit, (tree, size, data) in kept.items()
    }


def keep_trees(repository: Repository, trees: Mapping[str, BuildTree]) -> None:
    """Keep what is known of the builds of a line, in place of what was kept."""
    kept: _Kept = {}
    left = _MAX_COMMITS
    for commit, build in list(trees.items())[:MAX_LINE]:
        left -= len(build.commit)
        kept[commit] = (build.tree.hex(), build.size, build.commit if left >= 0 else b"")
    data = compress(msgspec.msgpack.encode(kept), _LEVEL)
    write_durably(repository.state / _FILE, data)


def forget_trees(repository: Repository) -> None:
    """Delete the cache, and that of the graph."""
    (repository.state / _FILE).unlink(missing_ok=True)
    forget_graph(repository)
