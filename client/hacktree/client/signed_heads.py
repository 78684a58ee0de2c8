"""Signed heads of a remote: what `TrustedRemote` verifies, read through the remote's source."""

import asyncio
from pathlib import Path

from hacktree.client.remote import Remote
from hacktree.client.source import NotServedError, OversizeError, Source
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.durable import make_directories
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.verifying import (
    FIRST_ROOT,
    AbsentError,
    EndlessError,
    TrustedRemote,
    check_anchor,
    limit_of,
)


def trust_directory(repository: Repository, remote: str) -> Path:
    """Where what is known of a remote's metadata is kept."""
    return repository.state / "remote-trust" / remote


def trust_of(repository: Repository, remote: Remote) -> TrustedRemote:
    """What is known of a remote's metadata."""
    return TrustedRemote(
        trust_directory(repository, remote.name),
        remote.shown_url,
        f"hacktree remote remove {remote.name}, then `remote add` with --root-fingerprint.",
    )


async def fetch_anchor(source: Source, fingerprint: str) -> bytes:
    """The remote's first root, if it is the one with this sha256; raises `TrustError`."""
    data = await source.read_trust(FIRST_ROOT, limit_of(FIRST_ROOT))
    check_anchor(data, fingerprint)
    return data


def keep_anchor(repository: Repository, remote: str, data: bytes) -> None:
    """Begin to trust a root."""
    make_directories(repository.path, Path("state/remote-trust") / remote, mode=0o700)
    TrustedRemote(trust_directory(repository, remote), remote).keep_anchor(data)


class SignedHeads:
    """Believes what the keys sign that the remote's root leads to."""

    def __init__(self, repository: Repository, remote: Remote, source: Source) -> None:
        self._trusted = trust_of(repository, remote)
        self._source = source

    async def read_head(self, branch: BranchName) -> ObjectId:
        """The signed head, in two requests when nothing changed.

        Raises `TrustError`, `SourceError`.
        """
        loop = asyncio.get_running_loop()

        def fetch(name: str, limit: int) -> bytes:
            reading = self._source.read_trust(name, limit)
            try:
                return asyncio.run_coroutine_threadsafe(reading, loop).result()
            except NotServedError as error:
                raise AbsentError(error.message) from error
            except OversizeError as error:
                raise EndlessError(error.message) from error

        return await asyncio.to_thread(self._trusted.read_head, branch, fetch)
