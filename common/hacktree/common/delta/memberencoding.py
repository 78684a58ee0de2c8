"""The encoder's side of `memberdelta`: finding compressed members, and a delta of what they hold.

A module of its own, for decoders need nothing of it.
"""

from msgspec.structs import replace

from hacktree.common.delta.codec import encode_delta
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.memberdelta import (
    MAX_EXPANDED,
    PARAMETERS_CODEC,
    MemberParameters,
    expanded_bound,
)
from hacktree.common.delta.members.detect import find_members
from hacktree.common.delta.members.expansion import common_layout_cost, expand, expansion_cost
from hacktree.common.delta.members.layout import encode_layout, expanded_length
from hacktree.common.delta.shared import Shared


def encode_member(old: bytes, new: bytes, work: int) -> EncodedEntry | None:
    """The entry, or None where nothing is compressed or can't be compressed again exactly.

    `work` bounds the search for parameters, see `find_members`.
    """
    layout = find_members(new, work)
    if layout is None or expanded_length(layout) > expanded_bound(len(new)):
        return None
    before = find_members(old, work, exact=False)
    base = old if before is None else expand(old, before, MAX_EXPANDED)
    inner = encode_delta(base, expand(new, layout, MAX_EXPANDED), Shared())
    parameters = MemberParameters(
        1,
        int(inner.kind),
        b"" if before is None else encode_layout(before),
        encode_layout(layout),
    )
    cost = inner.cost + common_layout_cost(layout)
    if before is not None:
        cost += expansion_cost(before)
    parts = {**inner.parts, StreamKind.PARAMETERS: PARAMETERS_CODEC.encode(parameters)}
    return replace(inner, kind=EntryKind.MEMBER, parts=parts, cost=cost)
