"""Publishing signed metadata: nothing unsigned gets in, and a crash leaves what was there."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from hacktree.common.errors import CorruptError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.durable import replace_published
from hacktree.common.repository.repository import Repository
from hacktree.common.trust import editing
from hacktree.common.trust.changes import RootEdit
from hacktree.common.trust.editing import Founders
from hacktree.common.trust.keys import KeyFileError, generate_key, load_public, load_signer
from hacktree.common.trust.report import describe
from hacktree.common.trust.roles import (
    ONLINE_ROLES,
    ROOT,
    expiry,
    role_of_branch,
    target_of,
)
from hacktree.common.trust.store import NoTrustError, SignatureMissingError, TrustStore
from support.pulling import make_repository
from support.trees import make_commit
from support.trusting import BUILDS, SignedFarm, change_root, new_signer

WRITER = "hacktree.common.trust.store.replace_published"
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "farm")


@pytest.fixture
def farm(repository: Repository) -> SignedFarm:
    return SignedFarm(repository)


def test_a_key_file_needs_its_passphrase(tmp_path: Path) -> None:
    made = generate_key(tmp_path / "k", b"secret")
    assert load_signer(tmp_path / "k", b"secret").public_key == made.public_key
    assert load_public(tmp_path / "k.pub") == load_public(tmp_path / "k") == made.public_key
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    for wrong in (b"other", b"", None):
        with pytest.raises(KeyFileError):
            load_signer(tmp_path / "k", wrong)
    for taken in (tmp_path / "k", tmp_path / "nowhere" / "k"):
        with pytest.raises(KeyFileError):
            generate_key(taken, None)


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "k").write_bytes(data)
    for load in (load_public, lambda path: load_signer(path, None)):
        with pytest.raises(KeyFileError):
            load(tmp_path / "k")
    with pytest.raises(KeyFileError):
        load_public(tmp_path / "missing")


def test_an_unsigned_repository_says_so(repository: Repository) -> None:
    with pytest.raises(NoTrustError):
        TrustStore(repository).load()


def test_only_the_next_version_of_the_branch_alone_is_published(farm: SignedFarm) -> None:
    head = make_commit(farm.repository, {"f": b"1"}, branch="builds")
    name, key = role_of_branch(BUILDS), farm.keys[BUILDS]
    target = target_of(BUILDS, head, 10)
    other = target_of(parse_branch_name("other"), head, 10)
    wrong = [
        Targets(2, expires=expiry(name, farm.now), targets={"builds": target}),
        Targets(1, expires=expiry(name, farm.now), targets={"builds": target, "other": other}),
        Targets(1, expires=expiry(name, farm.now), targets={"other": other}),
    ]
    before = (farm.store.directory / "timestamp.json").read_bytes()
    for signed in wrong:
        role = Metadata(signed)
        role.sign(key)
        with pytest.raises(FormatError):
            editing.publish_branch(farm.store, BUILDS, role, farm.now)
    unsigned = Metadata(Targets(1, expires=expiry(name, farm.now), targets={"builds": target}))
    stranger = new_signer()
    for sign in (lambda: None, lambda: unsigned.sign(stranger)):
        sign()
        with pytest.raises(SignatureMissingError):
            editing.publish_branch(farm.store, BUILDS, unsigned, farm.now)
    assert (farm.store.directory / "timestamp.json").read_bytes() == before
    with pytest.raises(UserError, match="may not sign"):
        farm.sign(head, BUILDS, stranger)
    farm.sign(head)
    assert editing.head_signed(farm.store.load(), BUILDS) == head


def test_root_keys_sign_together(repository: Repository) -> None:
    keys, targets, online = [new_signer() for _ in range(3)], new_signer(), new_signer()
    with pytest.raises(UserError, match="threshold"):
        Founders(keys[:1], [targets], 2)
    editing.initialise(TrustStore(repository), Founders(keys, [targets], 2), online, NOW)
    trust = TrustStore(repository)
    new_online = new_signer()
    trust.keep_online_key(new_online)
    edit = RootEdit(ONLINE_ROLES, (new_online.public_key,), (online.public_key.keyid,))
    with pytest.raises(SignatureMissingError):
        change_root(trust, edit, keys[:1], NOW)
    assert trust.load().root.signed.version == 1
    change_root(trust, edit, keys[1:], NOW)
    assert trust.load().root.signed.version == 2
    trust.forget_online_keys(trust.load().root.signed)
    assert len(list(trust.private.glob("online-*"))) == 1
    last = RootEdit((ROOT,), revoke=tuple(key.public_key.keyid for key in keys[:2]))
    with pytest.raises(UserError, match="fewer keys"):
        change_root(trust, last, keys, NOW)


def test_renewal_signs_again_what_is_past_half_of_its_life(farm: SignedFarm) -> None:
    farm.commit({"f": b"1"})
    name = role_of_branch(BUILDS)
    assert editing.renew(farm.store, farm.now, {}) == []
    later = farm.now + timedelta(days=4)
    assert editing.renew(farm.store, later, {}) == list(ONLINE_ROLES)
    state = farm.store.load()
    assert state.timestamp.signed.expires > later + timedelta(days=6)
    much_later = farm.now + timedelta(days=46)
    renewed = editing.renew(farm.store, much_later, {name: [farm.keys[BUILDS]]})
    assert renewed == [name, *ONLINE_ROLES]
    assert farm.store.load().roles[name].signed.version == 2
    report = {role.name: role for role in describe(farm.store, much_later).roles}
    assert not report["builds"].due
    assert describe(farm.store, much_later + timedelta(days=400)).roles[0].expired


def test_a_crash_before_the_timestamp_leaves_what_was_published(
    farm: SignedFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each write in turn; the next publication succeeds all the same."""
    first = farm.commit({"f": b"0"})
    real = replace_published
    for survived in range(3):
        head = make_commit(farm.repository, {"f": str(survived).encode() * 9}, branch="builds")
        left = survived

        def crash(path: Path, data: bytes) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            real(path, data)

        monkeypatch.setattr(WRITER, crash)
        with pytest.raises(KeyboardInterrupt):
            farm.sign(head)
        monkeypatch.undo()
        assert editing.head_signed(farm.store.load(), BUILDS) == first
        farm.sign(head)
        assert editing.head_signed(farm.store.load(), BUILDS) == head
        first = head


def test_a_crash_between_root_and_timestamp_is_mended_by_the_next_renewal(
    farm: SignedFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = new_signer()
    farm.store.keep_online_key(new)
    edit = RootEdit(ONLINE_ROLES, (new.public_key,), (farm.online.public_key.keyid,))
    monkeypatch.setattr(TrustStore, "publish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        change_root(farm.store, edit, [farm.root], farm.now)
    monkeypatch.undo()
    later = farm.now + timedelta(days=4)
    assert editing.renew(farm.store, later, {}) == list(ONLINE_ROLES)
    state = farm.store.load()
    root = state.root.signed
    root.verify_delegate("timestamp", state.timestamp.signed_bytes, state.timestamp.signatures)


def test_old_versions_are_deleted_after_a_day(farm: SignedFarm) -> None:
    farm.commit({"f": b"0"})
    old = {path.name for path in farm.store.directory.glob("*.snapshot.json")}
    farm.commit({"f": b"1"})
    assert {path.name for path in farm.store.directory.glob("*.snapshot.json")} > old
    past = time.time() - 2 * 86_400
    for path in farm.store.directory.iterdir():
        os.utime(path, (past, past))
    farm.commit({"f": b"2"})
    version = farm.store.load().snapshot.signed.version
    left = {path.name for path in farm.store.directory.glob("*.snapshot.json")}
    assert left == {f"{version}.snapshot.json"}
    assert (farm.store.directory / "1.root.json").exists()
    farm.store.load()


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json"])
def test_damage_is_named(farm: SignedFarm, name: str) -> None:
    path = farm.store.directory / name
    path.write_bytes(b'{"signed": {}}')
    with pytest.raises(CorruptError, match=name):
        farm.store.load()
    path.write_bytes(b"x" * (5 << 20))
    with pytest.raises(CorruptError, match="larger"):
        farm.store.load()


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 100_000, b'{"signed": {"_type": "root"}}', b"x" * (65 << 10)]
)
def test_a_role_that_is_sent_is_decoded_within_bounds(data: bytes) -> None:
    with pytest.raises(FormatError):
        editing.decode_role(data)


def test_a_signer_elsewhere_needs_only_the_version(farm: SignedFarm) -> None:
    head = make_commit(farm.repository, {"f": b"1"}, branch="builds")
    length = editing.commit_length(farm.store, head)
    for version in range(2):
        assert editing.branch_version(farm.store.load(), BUILDS) == version
        sent = editing.sign_branch(BUILDS, head, length, version, farm.keys[BUILDS], farm.now)
        role = editing.decode_role(sent.to_bytes())
        editing.publish_branch(farm.store, BUILDS, role, farm.now)
    root = farm.store.load().root.to_bytes()
    with pytest.raises(FormatError, match="not that of a branch"):
        editing.decode_role(root)
