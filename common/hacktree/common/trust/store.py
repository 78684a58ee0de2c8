"""The published metadata of a repository: reading it, and publishing anew at one commit point.

Files of roles and the snapshot are written first, under names that nothing refers to yet; the
rename of `timestamp.json` makes all of them current at once. A crash before it leaves files that
the next publication writes over. A root is current as soon as it exists, as TUF has it.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from hacktree.common.errors import CorruptError, UserError
from hacktree.common.repository.durable import make_directories, replace_published, write_durably
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.keys import load_signer
from hacktree.common.trust.roles import (
    MAX_METADATA,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    expiry,
)

DIRECTORY: Final = "trust"
_ROOT_NAME: Final = re.compile(r"(\d{1,9})\.root\.json")

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


_KEPT_SECONDS: Final = 86_400


class NoTrustError(UserError):
    """The repository has no signed metadata."""


class SignatureMissingError(UserError):
    """Metadata lacks signatures that its role asks for."""


@dataclass(frozen=True, slots=True)
class TrustState:
    """What is published. `roles`: the targets role and those of branches, by name."""

    root: Metadata[Root]
    root_bytes: bytes = field(repr=False)
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    roles: dict[str, Metadata[Targets]]

    @property
    def targets(self) -> Metadata[Targets]:
        """The role that delegates to the branches."""
        return self.roles[TARGETS]

    def delegator_of(self, role: str) -> Root | Targets:
        """Whose keys count for a role."""
        return self.root.signed if role in self.root.signed.roles else self.targets.signed


class TrustStore:
    """`trust/` of a repository, and the private files beside it in `state/trust/`."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.directory = repository.path / DIRECTORY
        self.private = repository.state / "trust"

    @property
    def exists(self) -> bool:
        """Whether heads of this repository are signed."""
        return (self.directory / "timestamp.json").exists()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Serialise whoever publishes."""
        make_directories(self.repository.path, Path("state/trust"), mode=0o700)
        path = self.private / "lock"
        path.touch(mode=0o600)
        with hold_lock(path, LockKind.EXCLUSIVE, timeout=60):
            yield

    def load(self) -> TrustState:
        """What is published now; raises `NoTrustError`, `CorruptError`."""
        versions = self._root_versions()
        if not versions or not self.exists:
            raise NoTrustError(
                f"the heads of {self.repository.path} are not signed", hint="hacktree trust init"
            )
        root_bytes = self._read(f"{versions[-1]}.root.json")
        root = _decode(Root, root_bytes, f"{versions[-1]}.root.json")
        timestamp = _decode(Timestamp, self._read("timestamp.json"), "timestamp.json")
        name = f"{timestamp.signed.snapshot_meta.version}.snapshot.json"
        snapshot = _decode(Snapshot, self._read(name), name)
        roles = {}
        for file, meta in snapshot.signed.meta.items():
            name = f"{meta.version}.{file}"
            roles[file.removesuffix(".json")] = _decode(Targets, self._read(name), name)
        if TARGETS not in roles:
            raise CorruptError(f"{self.directory}: the snapshot names no targets")
        return TrustState(root, root_bytes, timestamp, snapshot, roles)

    def first_root(self) -> bytes:
        """The root that clients begin with."""
        return self._read("1.root.json")

    def online_signer(self, root: Root) -> CryptoSigner:
        """The key of the snapshot and the timestamp, which lies unencrypted on the server."""
        for keyid in root.roles[TIMESTAMP].keyids:
            path = self._online_path(keyid)
            if path.exists():
                return load_signer(path, None)
        raise NoTrustError(
            f"{self.private} has no online key that the root names",
            hint="Publish on the server that has it, or: hacktree trust rotate online.",
        )

    def keep_online_key(self, signer: CryptoSigner) -> None:
        """Put a new online key beside those that are there: the root says which one counts."""
        make_directories(self.repository.path, Path("state/trust"), mode=0o700)
        write_durably(self._online_path(signer.public_key.keyid), signer.private_bytes)

    def _online_path(self, keyid: str) -> Path:
        return self.private / f"online-{keyid[:32]}.pem"

    def publish_root(self, root: Metadata[Root], before: Metadata[Root] | None) -> None:
        """Make a root current; it must be signed as it asks for and as the one before asks for."""
        for judge in (root.signed, (before or root).signed):
            _check(judge, ROOT, root)
        self._write(f"{root.signed.version}.root.json", root.to_bytes())

    def publish(
        self,
        root: Root,
        roles: Mapping[str, Metadata[Targets]],
        before: TrustState | None,
        signer: CryptoSigner,
        now: datetime,
    ) -> None:
        """Publish all `roles`, new or as they were, with a new snapshot and timestamp.

        Raises `SignatureMissingError`, before anything is written, if one of them does not count.
        """
        self.require_signed(root, roles)
        meta: dict[str, MetaFile] = {}
        for name, metadata in roles.items():
            data = metadata.to_bytes()
            version = metadata.signed.version
            if before is None or before.roles.get(name) != metadata:
                self._write(f"{version}.{name}.json", data)
            meta[f"{name}.json"] = MetaFile.from_data(version, data, ["sha256"])
        old = 0 if before is None else before.snapshot.signed.version
        snapshot = Metadata(Snapshot(old + 1, expires=expiry(SNAPSHOT, now), meta=meta))
        snapshot.sign(signer)
        snapshot_bytes = snapshot.to_bytes()
        self._write(f"{old + 1}.snapshot.json", snapshot_bytes)
        old_timestamp = 0 if before is None else before.timestamp.signed.version
        timestamp = Metadata(
            Timestamp(
                old_timestamp + 1,
                expires=expiry(TIMESTAMP, now),
                snapshot_meta=MetaFile.from_data(old + 1, snapshot_bytes, ["sha256"]),
            )
        )
        timestamp.sign(signer)
        _check(root, SNAPSHOT, snapshot)
        _check(root, TIMESTAMP, timestamp)
        self._write("timestamp.json", timestamp.to_bytes())
        self._sweep(
            {f"{old + 1}.snapshot.json", *(f"{m.version}.{n}" for n, m in meta.items())}, now
        )

    def require_signed(self, root: Root, roles: Mapping[str, Metadata[Targets]]) -> None:
        """Raise `SignatureMissingError` if one of `roles` is not signed by keys that count."""
        targets = roles[TARGETS].signed
        for name, metadata in roles.items():
            _check(root if name == TARGETS else targets, name, metadata)

    def forget_online_keys(self, root: Root) -> None:
        """Delete the online keys that the root no longer names."""
        named = {self._online_path(keyid) for keyid in root.roles[TIMESTAMP].keyids}
        for path in self.private.glob("online-*.pem"):
            if path not in named:
                path.unlink()

    def _sweep(self, current: set[str], now: datetime) -> None:
        """Delete what is no longer current and a day old: some client may be half way through."""
        for path in self.directory.glob("*.json"):
            if (
                path.name in current
                or path.name == "timestamp.json"
                or _ROOT_NAME.fullmatch(path.name)
            ):
                continue
            if now.timestamp() - path.stat().st_mtime > _KEPT_SECONDS:
                path.unlink()

    def _write(self, name: str, data: bytes) -> None:
        make_directories(self.repository.path, Path(DIRECTORY), mode=0o755)
        replace_published(self.directory / name, data)

    def _read(self, name: str) -> bytes:
        path = self.directory / name
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_METADATA + 1)
        except FileNotFoundError:
            raise CorruptError(
                f"{path} is missing", hint="Restore trust/ from a backup of this repository."
            ) from None
        if len(data) > MAX_METADATA:
            raise CorruptError(f"{path} is larger than {MAX_METADATA} bytes")
        return data

    def _root_versions(self) -> list[int]:
        names = [path.name for path in self.directory.glob("*.root.json")]
        return sorted(int(match[1]) for match in map(_ROOT_NAME.fullmatch, names) if match)


def _decode(kind: type[S], data: bytes, name: str) -> Metadata[S]:
    try:
        metadata: Metadata[S] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise CorruptError(
            f"trust/{name} is damaged: {error}", hint="Restore trust/ from a backup."
        ) from error
    if not isinstance(metadata.signed, kind):
        raise CorruptError(f"trust/{name} is not a {kind.type} file")
    return metadata


def _check(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise SignatureMissingError(
            f"the role {role} is not signed as it must be: {error}",
            hint="`hacktree trust status` names the keys of every role.",
        ) from error
