"""Commits of a farm elsewhere: each is what its id says, or it counts as not there."""

from dataclasses import dataclass, field
from typing import Final

from hacktree.common.errors import PeerError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.history import MAX_PAGE_SIZE, decode_page
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.trust.verifying import AbsentError
from hacktree.server.promotion.farm_client import FarmClient

_MAX_COMMITS: Final = 4000
"""Kept at most: twice what a decision looks at."""


class CommitWrongError(PeerError):
    """The farm serves bytes that are not the commit that was asked for."""


@dataclass(frozen=True, slots=True)
class RemoteCommits:
    """Reads commits from the files that a farm publishes, and keeps them.

    What the farm once did not have is absent until `begin_look`: a commit that was hidden where it
    stops a promotion must not be shown where it is on the way to an older build.
    """

    farm: FarmClient
    _kept: dict[ObjectId, Commit] = field(default_factory=dict, repr=False)
    _absent: set[ObjectId] = field(default_factory=set, repr=False)

    def begin_look(self) -> None:
        """Ask again for what was absent: a new decision begins."""
        self._absent.clear()

    def has_meta(self, object_id: ObjectId) -> bool:
        """Whether the farm has the commit; raises as `load_commit` does for a wrong one."""
        try:
            self.load_commit(object_id)
        except AbsentError:
            return False
        return True

    def load_commit(self, object_id: ObjectId) -> Commit:
        """The commit; raises `AbsentError`, `CommitWrongError`, `FarmUnreachableError`."""
        kept = self._kept.get(object_id)
        if kept is None:
            kept = self._keep(object_id, self._read(object_id))
        return kept

    def prefetch(self, branch: BranchName, head: ObjectId) -> None:
        """Read the newest commits of a branch in one request, unless its head is known already.

        Only a hint: what the page holds counts as what it hashes to.
        """
        if head in self._kept:
            return
        try:
            data = self.farm.read(f"branches/{branch}/history/tail", MAX_PAGE_SIZE)
            page = decode_page(decompress_bounded(data, MAX_PAGE_SIZE))
        except (AbsentError, FormatError):
            return
        for encoded in page.commits:
            self._keep(hash_bytes(encoded), encoded)

    def _read(self, object_id: ObjectId) -> bytes:
        if object_id in self._absent:
            raise AbsentError(f"{self.farm.url} did not have {object_id.hex()[:12]}")
        try:
            return self.farm.read(f"objects/{meta_name(object_id)}", MAX_COMMIT_SIZE)
        except AbsentError:
            self._absent.add(object_id)
            raise

    def _keep(self, object_id: ObjectId, data: bytes) -> Commit:
        if hash_bytes(data) != object_id:
            raise CommitWrongError(
                f"{self.farm.url} serves other bytes than those of the commit "
                f"{object_id.hex()[:12]}",
                hint="Somebody tampered with it, or its disk is damaged: `hacktree fsck` there.",
            )
        try:
            commit = decode_commit(data)
        except FormatError as error:
            raise CommitWrongError(f"{object_id.hex()[:12]} is no commit: {error}") from error
        while len(self._kept) >= _MAX_COMMITS:
            del self._kept[next(iter(self._kept))]
        self._kept[object_id] = commit
        return commit
