"""Heads from signed metadata (TUF): who controls the server or the network can't move a branch.

python-tuf does the checking; here its files are locked and made durable, what it asks for is read
through the remote's source, and its findings become sentences. docs/format.md, "Trust".
"""

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from hacktree.client.remote import Remote
from hacktree.client.source import NotServedError, OversizeError, Source, SourceError
from hacktree.common.errors import PeerError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.durable import make_directories, sync_directory, write_durably
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.roles import head_of, role_of_branch

_BASE: Final = "trust:"
"""What python-tuf takes for the URL of the metadata; only the fetcher sees it."""

_ANCHOR: Final = "anchor.json"
_CONFIG: Final = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=1024,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=4_000_000,
)
FIRST_ROOT: Final = "1.root.json"


class TrustError(PeerError):
    """The remote's signed metadata does not show where a branch is; nothing was changed."""


class AnchorMissingError(UserError):
    """The remote has no root to begin with."""


def limit_of(name: str) -> int:
    """Bytes that a metadata file may have."""
    if name == "timestamp.json":
        return _CONFIG.timestamp_max_length
    kind = name.partition(".")[2]
    limits = {
        "root.json": _CONFIG.root_max_length,
        "snapshot.json": _CONFIG.snapshot_max_length,
    }
    return limits.get(kind, _CONFIG.targets_max_length)


def trust_directory(repository: Repository, remote: str) -> Path:
    """Where what is known of a remote's metadata is kept."""
    return repository.state / "remote-trust" / remote


async def fetch_anchor(source: Source, fingerprint: str) -> bytes:
    """The remote's first root, if it is the one with this sha256; raises `TrustError`."""
    data = await source.read_trust(FIRST_ROOT, limit_of(FIRST_ROOT))
    check_anchor(data, fingerprint)
    return data


def check_anchor(data: bytes, fingerprint: str) -> None:
    """Refuse anything but the root file with this fingerprint."""
    if hash_bytes(data).hex() != fingerprint.removeprefix("sha256:").lower():
        raise TrustError(
            "the server's first root is another one than the fingerprint says",
            hint="Compare the fingerprint with whoever runs the farm, by another way than this "
            "network: `hacktree trust status` shows it there.",
        )
    try:
        metadata: Metadata[Root] = Metadata.from_bytes(data)
        metadata.verify_delegate("root", metadata)
    except (exceptions.RepositoryError, TypeError, ValueError) as error:
        raise TrustError(f"the root with this fingerprint is none: {error}") from error


def keep_anchor(repository: Repository, remote: str, data: bytes) -> None:
    """Begin to trust a root."""
    make_directories(repository.path, Path("state/remote-trust") / remote, mode=0o700)
    write_durably(trust_directory(repository, remote) / _ANCHOR, data)


class SignedHeads:
    """Believes what the keys sign that the remote's root leads to."""

    def __init__(self, repository: Repository, remote: Remote, source: Source) -> None:
        self._directory = trust_directory(repository, remote.name)
        self._remote = remote
        self._source = source

    async def read_head(self, branch: BranchName) -> ObjectId:
        """The signed head, in two requests when nothing changed.

        Raises `TrustError`, `SourceError`.
        """
        fetcher = _Fetcher(self._source, asyncio.get_running_loop())
        try:
            return await asyncio.to_thread(self._refresh, branch, fetcher)
        except (exceptions.RepositoryError, exceptions.DownloadError, FormatError) as error:
            if fetcher.failure is not None and not isinstance(fetcher.failure, OversizeError):
                raise fetcher.failure from error
            raise _explain(error, self._remote, branch, fetcher.failure) from error

    def _refresh(self, branch: BranchName, fetcher: "_Fetcher") -> ObjectId:
        try:
            anchor = (self._directory / _ANCHOR).read_bytes()
        except FileNotFoundError:
            raise AnchorMissingError(
                f"nothing is known of whom to believe for {self._remote.name}",
                hint=f"hacktree remote remove {self._remote.name}, then `remote add` with "
                "--root-fingerprint.",
            ) from None
        lock = self._directory / "lock"
        lock.touch(mode=0o600)
        with hold_lock(lock, LockKind.EXCLUSIVE, timeout=60):
            updater = Updater(
                str(self._directory), _BASE, fetcher=fetcher, config=_CONFIG, bootstrap=anchor
            )
            try:
                updater.refresh()
                target = updater.get_targetinfo(str(branch))
            finally:
                # What was seen must not be forgotten in a power cut: older would count again.
                _sync(self._directory)
        if target is None:
            raise TrustError(
                f"{self._remote.shown_url} signs no branch {branch}",
                hint="Is the name right? Whoever runs the farm delegates a branch with `hacktree "
                "trust delegate`.",
            )
        return head_of(target)


class _Fetcher(FetcherInterface):
    """Reads metadata through a source whose loop runs in another thread."""

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self.failure: SourceError | None = None
        self._source = source
        self._loop = loop

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE).lstrip("/")
        reading = self._source.read_trust(name, limit_of(name))
        try:
            data = asyncio.run_coroutine_threadsafe(reading, self._loop).result()
        except NotServedError as error:
            raise exceptions.DownloadHTTPError(str(error), 404) from error
        except SourceError as error:
            self.failure = error
            raise exceptions.DownloadError(str(error)) from error
        return iter([data])


def _explain(
    error: Exception, remote: Remote, branch: BranchName, oversize: SourceError | None
) -> TrustError:
    url, said = remote.shown_url, str(error).replace(role_of_branch(branch), f"role of {branch}")
    nothing = "Nothing was changed; what is here can be deployed and rolled back."
    if oversize is not None:
        return TrustError(f"{oversize.message}: endless data", hint=nothing)
    if isinstance(error, exceptions.ExpiredMetadataError):
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return TrustError(
            f"{url}: {said}: the farm stopped renewing it, or somebody holds newer builds back",
            hint=f"Is the clock right? It says {now}. Else whoever runs the farm: `hacktree trust "
            f"status`, `hacktree trust renew`. {nothing}",
        )
    if isinstance(error, exceptions.BadVersionNumberError):
        return TrustError(
            f"{url} serves older metadata than this machine has seen, a rollback: {said}",
            hint="A cache on the way, an attacker, or a farm restored from a backup: ask whoever "
            f"runs it. {nothing}",
        )
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return TrustError(
            f"{url} serves files of different publications, mixed: {said}",
            hint="Try again in a minute; if it stays, a server or proxy is tampered with. "
            f"{nothing}",
        )
    if isinstance(error, exceptions.UnsignedMetadataError):
        return TrustError(
            f"{url} serves metadata that the keys that count did not sign: {said}",
            hint="A key was revoked, or somebody signs who may not. Whoever runs the farm: "
            f"`hacktree trust status`. {nothing}",
        )
    return TrustError(f"{url}: its signed metadata can't be used: {said}", hint=nothing)


def _sync(directory: Path) -> None:
    for folder in (directory / "root_history", directory):
        for path in folder.glob("*.json"):
            if path.is_symlink():
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if folder.exists():
            sync_directory(folder)
