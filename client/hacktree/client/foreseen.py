"""A sysroot as it will be once a build has come that is only being planned."""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.repository.repository import Repository


class _ForeseenRepository(Repository, frozen=True):
    """Also reads trees and commits that are in memory; files of theirs may not be here."""

    brought: Mapping[ObjectId, bytes]

    def read_meta(self, object_id: ObjectId, max_size: int) -> bytes:
        data = self.brought.get(object_id)
        if data is not None and len(data) <= max_size:
            return data
        return Repository.read_meta(self, object_id, max_size)


def foresee(sysroot: Sysroot, metas: Iterable[bytes]) -> Sysroot:
    """The sysroot with these encoded trees and commits in its repository; nothing is written."""
    known = sysroot.repository
    brought = {hash_bytes(data): data for data in metas}
    repository = _ForeseenRepository(known.path, known.mode, known.config, brought)
    return replace(sysroot, repository=repository)
