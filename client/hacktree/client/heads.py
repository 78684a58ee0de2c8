"""The trust seam: how the head of a branch is learnt. Everything below a head is checked by hash.

Signed heads come with TUF; they replace only what is here.
"""

from typing import Protocol

from hacktree.client.source import Source, WrongBytesError
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import parse_ref


class HeadReader(Protocol):
    """Tells which commit a branch's head is, on whatever authority it has."""

    async def read_head(self, branch: BranchName) -> ObjectId:
        """The head of `branch`; raises `PeerError`."""


class UnsignedHeads:
    """Believes the ref file that the source serves: whoever controls the source decides."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def read_head(self, branch: BranchName) -> ObjectId:
        """The id in `refs/<branch>`."""
        data = await self._source.read_ref(branch)
        try:
            return parse_ref(data)
        except NameInvalidError as error:
            raise WrongBytesError(f"refs/{branch}", error.message) from error
