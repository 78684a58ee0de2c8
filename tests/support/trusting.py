"""A signed farm in a test's hands: honest publications, and whatever an attacker would publish."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from hacktree.client.remote import Remote, add_remote
from hacktree.client.signed_heads import keep_anchor
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.repository import Repository
from hacktree.common.trust import changes, editing
from hacktree.common.trust.changes import RootEdit
from hacktree.common.trust.editing import Signers
from hacktree.common.trust.roles import SNAPSHOT, TIMESTAMP, expiry
from hacktree.common.trust.store import TrustStore
from support.trees import Spec, make_commit

BUILDS = parse_branch_name("builds")
FASTQA = parse_branch_name("fastqa")


def new_signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


def change_root(store: TrustStore, edit: RootEdit, signers: Signers, now: datetime) -> None:
    """Change whose keys count, with all keys in one place."""
    change = changes.propose_root(store.load(), edit, now)
    changes.sign_and_publish(store, change, signers, (), now)


def change_branch(
    store: TrustStore,
    keys: tuple[Sequence[SSlibKey], Sequence[str]],
    signers: Signers,
    resign: Signers,
    now: datetime,
) -> None:
    """Let keys move `builds`, and others, by their ids, no longer; `resign` signs its head anew."""
    change = changes.propose_branch(store.load(), BUILDS, *keys, now)
    changes.sign_and_publish(store, change, signers, resign, now)


@dataclass
class SignedFarm:
    """A repository whose branches `builds` and `fastqa` are signed by keys of their own."""

    repository: Repository
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    root: CryptoSigner = field(default_factory=new_signer)
    targets: CryptoSigner = field(default_factory=new_signer)
    online: CryptoSigner = field(default_factory=new_signer)
    keys: dict[BranchName, CryptoSigner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = TrustStore(self.repository)
        founders = editing.Founders([self.root], [self.targets])
        editing.initialise(self.store, founders, self.online, self.now)
        for branch in (BUILDS, FASTQA):
            self.keys[branch] = new_signer()
            key = self.keys[branch].public_key
            change = changes.propose_delegation(self.store.load(), branch, [key], self.now)
            changes.sign_and_publish(self.store, change, [self.targets], (), self.now)

    def commit(self, tree: dict[str | bytes, Spec], branch: BranchName = BUILDS) -> ObjectId:
        """An honest build: committed and signed."""
        head = make_commit(self.repository, tree, branch=str(branch))
        self.sign(head, branch)
        return head

    def sign(
        self, head: ObjectId, branch: BranchName = BUILDS, signer: CryptoSigner | None = None
    ) -> None:
        """Publish a signed head as the farm would, which checks what it publishes."""
        length = editing.commit_length(self.store, head)
        key = signer or self.keys[branch]
        role = editing.sign_head(self.store.load(), branch, head, length, key, self.now)
        editing.publish_branch(self.store, branch, role, self.now)

    def force(self, name: str, role: Metadata[Targets]) -> None:
        """Publish a role's metadata, right or wrong: somebody has the online key and the disk."""
        state = self.store.load()
        roles = {**state.roles, name: role}
        meta = {}
        for each, metadata in roles.items():
            data = metadata.to_bytes()
            (self.store.directory / f"{metadata.signed.version}.{each}.json").write_bytes(data)
            meta[f"{each}.json"] = MetaFile.from_data(metadata.signed.version, data, ["sha256"])
        snapshot = Metadata(
            Snapshot(
                state.snapshot.signed.version + 1, expires=expiry(SNAPSHOT, self.now), meta=meta
            )
        )
        snapshot.sign(self.online)
        data = snapshot.to_bytes()
        version = snapshot.signed.version
        (self.store.directory / f"{version}.snapshot.json").write_bytes(data)
        timestamp = Metadata(
            Timestamp(
                state.timestamp.signed.version + 1,
                expires=expiry(TIMESTAMP, self.now),
                snapshot_meta=MetaFile.from_data(version, data, ["sha256"]),
            )
        )
        timestamp.sign(self.online)
        (self.store.directory / "timestamp.json").write_bytes(timestamp.to_bytes())

    @contextmanager
    def at(self, shift: timedelta) -> Iterator[None]:
        """Sign by another clock."""
        before = self.now
        self.now = before + shift
        yield
        self.now = before

    def save(self, place: Path) -> None:
        """What an attacker copies today to serve it later."""
        shutil.copytree(self.store.directory, place)

    def restore(self, place: Path) -> None:
        """Serve what was copied."""
        shutil.rmtree(self.store.directory)
        shutil.copytree(place, self.store.directory)


def trusting_remote(client: Repository, farm: SignedFarm, url: str = "") -> Remote:
    """The client begins to trust the farm's first root."""
    remote = Remote("farm", url or f"file://{farm.repository.path}", "tuf")
    add_remote(client, remote)
    keep_anchor(client, remote.name, farm.store.first_root())
    return remote
