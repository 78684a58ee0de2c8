"""What it takes to bring the builds of a line, kept in `.ht/state/bisect/builds.json`.

A cache: where it is missing or of another line, as after an import, the line is read again. The
pack graph is read once a process. Both are hints: what can't be read costs bytes and fails nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hacktree.client.bisect.core.model import MAX_LINE, Candidate, CommitId
from hacktree.client.bisect.core.state import State
from hacktree.client.bisect.farm.costs import BuildTree, estimate_costs
from hacktree.client.bisect.farm.forecast import Orders, compare_orders
from hacktree.client.bisect.farm.reading import read_again, read_graph
from hacktree.client.packs import held_trees
from hacktree.client.remote import Remote
from hacktree.common.delta.graph import Edge
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.repository import Repository

_FILE: Final = Path("bisect/builds.json")
_MAX_SIZE: Final = 4 << 20

_Kept = dict[CommitId, tuple[CommitId, Annotated[int, Meta(ge=0, le=1 << 50)]]]


@dataclass(slots=True)
class Transfers:
    """What is known of the way to each build of the lines of one process.

    `received`: bytes that asking took since it was last set to 0.
    """

    repository: Repository
    received: int = 0
    _note: str = ""
    _line: tuple[str, str] = ("", "")
    _trees: Mapping[str, BuildTree] = field(default_factory=dict)
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
            self._trees = self._read_trees(remote, line) if trees is None else trees
            graph = read_graph(remote, {build.tree for build in self._trees.values()})
        except (HacktreeError, OSError) as error:
            self._note = f"what builds cost is not known: {error}"
            self._edges = ()
            return
        self._edges = graph.value.edges
        self._note = graph.value.note
        self.received += graph.received

    def take_note(self) -> str:
        """What could not be read, once: empty until there is something new to say."""
        note, self._note = self._note, ""
        return note

    @property
    def edges(self) -> Sequence[Edge]:
        """Of the pack graph."""
        return self._edges

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
            kept = msgspec.json.decode(stream.read(_MAX_SIZE), type=_Kept)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return {}
    return {commit: BuildTree(parse_object_id(tree), size) for commit, (tree, size) in kept.items()}


def keep_trees(repository: Repository, trees: Mapping[str, BuildTree]) -> None:
    """Keep what is known of the builds of a line, in place of what was kept."""
    newest = list(trees.items())[:MAX_LINE]
    kept: _Kept = {commit: (build.tree.hex(), build.bytes) for commit, build in newest}
    write_durably(repository.state / _FILE, msgspec.json.encode(kept))


def forget_trees(repository: Repository) -> None:
    """Delete the cache."""
    (repository.state / _FILE).unlink(missing_ok=True)
