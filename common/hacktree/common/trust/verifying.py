"""Heads from signed metadata (TUF): who controls the server or the network can't move a branch.

python-tuf does the checking; here its files are locked and made durable, what it asks for is read
through whatever the caller reads with, and its findings become sentences. docs/format.md, "Trust".
"""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from hacktree.common.errors import PeerError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.durable import sync_directory, write_durably
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.trust.roles import SNAPSHOT, TARGETS, only_head, role_of_branch

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

Fetch = Callable[[str, int], bytes]
"""Reads a file of `trust/` of at most so many bytes; raises `AbsentError`, `EndlessError` or
another `PeerError`. It is called in the thread of whoever asks."""


class TrustError(PeerError):
    """The remote's signed metadata does not show where a branch is; nothing was changed."""


class UnsignedYetError(TrustError):
    """The branch is delegated, and nobody has signed it yet: the metadata says so."""


class AnchorMissingError(UserError):
    """There is no root to begin with."""


class AbsentError(PeerError):
    """The server has no such file."""


class EndlessError(PeerError):
    """The server sends more than the file may have."""


class BranchRole(msgspec.Struct, frozen=True):
    """What is signed of a branch. `head`, `expires`: None before the first signature, `version` 0.

    `keys`: the ids of those that may sign it.
    """

    head: ObjectId | None
    version: int
    expires: datetime | None
    keys: tuple[str, ...]


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


def check_anchor(data: bytes, fingerprint: str) -> None:
    """Refuse anything but the root file with this fingerprint."""
    if not _is_fingerprint_of(data, fingerprint):
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


def _is_fingerprint_of(data: bytes, fingerprint: str) -> bool:
    return hash_bytes(data).hex() == fingerprint.removeprefix("sha256:").lower()


class TrustedRemote:
    """What the keys sign that a remote's first root leads to.

    `directory` holds what was seen, so that nothing older counts any more; `shown_url` and `hint`
    (what to do when there is no root in it) are for messages. One process at a time refreshes.
    """

    def __init__(self, directory: Path, shown_url: str, hint: str = "") -> None:
        self._directory = directory
        self._url = shown_url
        self._hint = hint

    @property
    def has_anchor(self) -> bool:
        """Whether there is a root to begin with."""
        return (self._directory / _ANCHOR).exists()

    def check_anchor(self, fingerprint: str) -> None:
        """Refuse a fingerprint that is not that of the root which is there; raises `TrustError`."""
        if not _is_fingerprint_of(self.read_anchor(), fingerprint):
            raise TrustError(
                f"{self._url} was believed by another root until now",
                hint=f"Is the fingerprint right? To begin anew, delete {self._directory}.",
            )

    def read_anchor(self) -> bytes:
        """The root to begin with, which is there."""
        return (self._directory / _ANCHOR).read_bytes()

    def keep_anchor(self, data: bytes) -> None:
        """Begin to trust a root, which the caller has checked, in a directory that is there."""
        write_durably(self._directory / _ANCHOR, data)

    def read_head(self, branch: BranchName, fetch: Fetch) -> ObjectId:
        """The signed head, in two requests when nothing changed.

        Raises `TrustError`, also where nobody has signed the branch, and as `fetch` does.
        """
        head = self.read_roles([branch], fetch)[branch].head
        if head is None:
            raise UnsignedYetError(
                f"{self._url} has no signature of the branch {branch} yet",
                hint="Whoever runs the farm: `hacktree trust sign`, or `push --sign-with`.",
            )
        return head

    def read_roles(
        self, branches: Sequence[BranchName], fetch: Fetch
    ) -> dict[BranchName, BranchRole]:
        """What is signed of several branches, all in one publication.

        Raises `TrustError`, also for a branch that is delegated to nobody, and as `fetch` does.
        """
        fetcher = _Fetcher(fetch)
        try:
            return self._refresh(branches, fetcher)
        except (exceptions.RepositoryError, exceptions.DownloadError, FormatError) as error:
            failure = fetcher.failure
            if failure is not None and not isinstance(failure, EndlessError):
                raise failure from error
            raise _explain(error, self._url, branches, failure) from error

    def _refresh(
        self, branches: Sequence[BranchName], fetcher: "_Fetcher"
    ) -> dict[BranchName, BranchRole]:
        try:
            anchor = (self._directory / _ANCHOR).read_bytes()
        except FileNotFoundError:
            raise AnchorMissingError(
                f"nothing is known of whom to believe for {self._url}", hint=self._hint
            ) from None
        lock = self._directory / "lock"
        lock.touch(mode=0o600)
        with hold_lock(lock, LockKind.EXCLUSIVE, timeout=60):
            updater = Updater(
                str(self._directory), _BASE, fetcher=fetcher, config=_CONFIG, bootstrap=anchor
            )
            try:
                updater.refresh()
                return {branch: self._role(updater, branch) for branch in branches}
            finally:
                # What was seen must not be forgotten in a power cut: older would count again.
                _sync(self._directory)

    def _role(self, updater: Updater, branch: BranchName) -> BranchRole:
        """A branch's role, of the files that `updater` has verified and kept."""
        name = role_of_branch(branch)
        targets: Metadata[Targets] = Metadata.from_file(str(self._directory / f"{TARGETS}.json"))
        delegations = targets.signed.delegations
        delegated = None if delegations is None else (delegations.roles or {}).get(name)
        if delegated is None:
            raise TrustError(
                f"{self._url} signs no branch {branch}",
                hint="Is the name right? Whoever runs the farm delegates a branch with `hacktree "
                "trust delegate`.",
            )
        keys = tuple(delegated.keyids)
        snapshot: Metadata[Snapshot] = Metadata.from_file(str(self._directory / f"{SNAPSHOT}.json"))
        if f"{name}.json" not in snapshot.signed.meta:
            return BranchRole(None, 0, None, keys)
        found = updater.get_targetinfo(str(branch))
        role: Metadata[Targets] = Metadata.from_file(str(self._directory / f"{name}.json"))
        head = only_head(role.signed, branch)
        if found is None or head is None or found.hashes.get("sha256") != head.hex():
            raise FormatError(f"the role of {branch} signs no head, or the head is another's")
        return BranchRole(head, role.signed.version, role.signed.expires, keys)


class _Fetcher(FetcherInterface):
    """Reads metadata as the caller does."""

    def __init__(self, fetch: Fetch) -> None:
        self.failure: PeerError | None = None
        self._fetch_file = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE).lstrip("/")
        try:
            data = self._fetch_file(name, limit_of(name))
        except AbsentError as error:
            raise exceptions.DownloadHTTPError(str(error), 404) from error
        except PeerError as error:
            self.failure = error
            raise exceptions.DownloadError(str(error)) from error
        return iter([data])


def _explain(
    error: Exception, url: str, branches: Sequence[BranchName], endless: PeerError | None
) -> TrustError:
    said = str(error)
    for branch in branches:
        said = said.replace(role_of_branch(branch), f"role of {branch}")
    nothing = "Nothing was changed; what is here can be deployed and rolled back."
    if endless is not None:
        return TrustError(f"{endless.message}: endless data", hint=nothing)
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
