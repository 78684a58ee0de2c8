"""Encoding one object: the only place that decides which of the codec's entries are made."""

from hacktree.common.delta.codec import encode_delta
from hacktree.common.delta.entry import EncodedEntry
from hacktree.common.delta.shared import Shared


def encode_best(old: bytes, new: bytes, shared: Shared) -> EncodedEntry:
    """The smallest entry that turns `old` into `new`, whatever it costs to decode."""
    return encode_delta(old, new, shared)
