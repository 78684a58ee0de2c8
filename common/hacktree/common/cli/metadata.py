"""`--metadata KEY=VALUE`, as commands that commit take it."""

from collections.abc import Sequence

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MetadataValue


def parse_metadata(pairs: Sequence[str]) -> dict[str, MetadataValue]:
    """The metadata of a commit; raises `UserError` for what is not KEY=VALUE."""
    metadata: dict[str, MetadataValue] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"metadata is KEY=VALUE, not {pair!r}")
        metadata[key] = value
    return metadata
