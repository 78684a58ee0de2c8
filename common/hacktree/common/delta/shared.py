"""What all entries of one pack share besides the dictionary. docs/format.md, "Entries"."""

from dataclasses import dataclass

from hacktree.common.objects.errors import FormatError


@dataclass(frozen=True, slots=True)
class Shared:
    """Pack-wide maps; empty for now."""

    def encode(self) -> bytes:
        """The bytes for the pack's head."""
        return b""

    @classmethod
    def decode(cls, data: bytes) -> "Shared":
        """The inverse of `encode`; raises `FormatError`."""
        if data:
            raise FormatError("shared maps of an unknown kind")
        return cls()
