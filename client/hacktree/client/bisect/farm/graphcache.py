"""The pack graph as the first command of a session read it, in `.ht/state/bisect/graph.zst`.

Each answer is a command of its own, and the graph can be more bytes than the build that it leads
to. It is kept only where it has packs to every build of the line behind the older end: else the
server may still make some. A hint like the graph itself: if a pack has gone since, another one or
objects do its work.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.bisect.farm.costs import MAX_SEGMENTS
from hacktree.common.delta.graph import (
    MAX_SEGMENT_SIZE,
    SEGMENT_LENGTH,
    Edge,
    Segment,
    decode_segment,
    encode_segment,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.repository import Repository

_FILE: Final = Path("bisect/graph.zst")
_MAX_SIZE: Final = MAX_SEGMENTS * (MAX_SEGMENT_SIZE + 8)


def keep_graph(repository: Repository, edges: Sequence[Edge], builds: Collection[ObjectId]) -> None:
    """Keep these edges, in place of what was kept, if they lead to the trees of all `builds`."""
    if not _leads_to_all(edges, builds):
        forget_graph(repository)
        return
    starts = range(0, len(edges), SEGMENT_LENGTH)
    segments = [Segment(tuple(edges[at : at + SEGMENT_LENGTH]), None) for at in starts]
    data = msgspec.msgpack.encode([encode_segment(segment) for segment in segments])
    write_durably(repository.state / _FILE, data)


def read_graph_kept(repository: Repository, builds: Collection[ObjectId]) -> Sequence[Edge]:
    """The edges that are kept; none where they are of another line, or damaged."""
    try:
        with (repository.state / _FILE).open("rb") as stream:
            data = stream.read(_MAX_SIZE)
        segments = msgspec.msgpack.decode(data, type=list[bytes])
        edges = [edge for segment in segments for edge in decode_segment(segment).edges]
    except (FileNotFoundError, FormatError, msgspec.MsgspecError, UnicodeError):
        return ()
    return edges if _leads_to_all(edges, builds) else ()


def forget_graph(repository: Repository) -> None:
    """Delete what is kept."""
    (repository.state / _FILE).unlink(missing_ok=True)


def _leads_to_all(edges: Sequence[Edge], builds: Collection[ObjectId]) -> bool:
    return bool(edges) and set(builds) <= {edge.new for edge in edges}
