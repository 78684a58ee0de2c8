"""Promise: nobody but the keys that count moves a branch, and each attack is called by its name."""

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from hacktree.client.connect import open_source
from hacktree.client.remote import Remote
from hacktree.client.signed_heads import (
    SignedHeads,
    fetch_anchor,
    keep_anchor,
    trust_directory,
)
from hacktree.client.source import SourceError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.changes import RootEdit
from hacktree.common.trust.report import fingerprint
from hacktree.common.trust.roles import (
    ONLINE_ROLES,
    ROOT,
    TARGETS,
    expiry,
    role_of_branch,
    target_of,
)
from hacktree.common.trust.verifying import TrustError
from support.faulty_server import endless, faulty_server, replaced, status
from support.pulling import FakeTime, make_repository, patience
from support.servers import nginx_serving
from support.trusting import (
    BUILDS,
    FASTQA,
    SignedFarm,
    change_branch,
    change_root,
    new_signer,
    trusting_remote,
)


@pytest.fixture
def signed(farm: Repository) -> SignedFarm:
    return SignedFarm(farm)


async def head_of(client: Repository, remote: Remote, branch: BranchName = BUILDS) -> ObjectId:
    async with open_source(remote, patience(FakeTime()), 4) as source:
        return await SignedHeads(client, remote, source).read_head(branch)


async def refused(client: Repository, remote: Remote, branch: BranchName = BUILDS) -> TrustError:
    with pytest.raises(TrustError) as caught:
        await head_of(client, remote, branch)
    assert caught.value.hint
    return caught.value


async def test_a_signed_head_is_learnt_and_followed(signed: SignedFarm, client: Repository) -> None:
    remote = trusting_remote(client, signed)
    for number in range(3):
        head = signed.commit({"f": f"{number}".encode()})
        assert await head_of(client, remote) == head
    assert (await refused(client, remote, FASTQA)).message.count("fastqa")


async def test_nothing_new_takes_two_requests(signed: SignedFarm, client: Repository) -> None:
    head = signed.commit({"f": b"1"})
    with nginx_serving(signed.repository.path) as server:
        remote = trusting_remote(client, signed, server.url)
        assert await head_of(client, remote) == head
        before = len(server.requests())
        assert await head_of(client, remote) == head
        asked = server.requests()[before:]
    assert [(entry.path.rpartition("/")[2], entry.status) for entry in asked] == [
        ("2.root.json", 404),
        ("timestamp.json", 200),
    ]


async def test_expired_metadata_is_refused(signed: SignedFarm, client: Repository) -> None:
    """A freeze: old signatures are served on and on."""
    remote = trusting_remote(client, signed)
    with signed.at(timedelta(days=-8)):
        signed.commit({"f": b"1"})
    error = await refused(client, remote)
    assert "expired" in error.message
    assert "holds newer builds back" in error.message
    assert "trust renew" in error.hint
    assert "Is the clock right? It says 20" in error.hint
    signed.commit({"f": b"2"})
    assert await head_of(client, remote)


async def test_an_expired_branch_blocks_no_other(signed: SignedFarm, client: Repository) -> None:
    remote = trusting_remote(client, signed)
    with signed.at(timedelta(days=-91)):
        signed.commit({"f": b"1"})
    head = signed.commit({"f": b"2"}, FASTQA)
    assert await head_of(client, remote, FASTQA) == head
    error = await refused(client, remote)
    assert "role of builds is expired" in error.message


async def test_a_rollback_is_refused(
    signed: SignedFarm, client: Repository, tmp_path: Path
) -> None:
    remote = trusting_remote(client, signed)
    signed.commit({"f": b"1"})
    signed.save(tmp_path / "old")
    head = signed.commit({"f": b"2"})
    assert await head_of(client, remote) == head
    signed.restore(tmp_path / "old")
    error = await refused(client, remote)
    assert "older metadata than this machine has seen" in error.message


async def test_a_rollback_of_one_branch_by_the_online_key_is_refused(
    signed: SignedFarm, client: Repository
) -> None:
    """Whoever steals the online key can still not take back what a client has seen."""
    remote = trusting_remote(client, signed)
    signed.commit({"f": b"1"})
    name = role_of_branch(BUILDS)
    old = signed.store.load().roles[name]
    head = signed.commit({"f": b"2"})
    assert await head_of(client, remote) == head
    signed.force(name, old)
    assert "older metadata" in (await refused(client, remote)).message


async def test_files_of_two_publications_are_refused(
    signed: SignedFarm, client: Repository
) -> None:
    """Mix and match: the snapshot of another publication under this one's name."""
    remote = trusting_remote(client, signed)
    signed.commit({"f": b"1"})
    directory = signed.store.directory
    version = signed.store.load().snapshot.signed.version
    old = (directory / f"{version}.snapshot.json").read_bytes()
    signed.commit({"f": b"2"})
    (directory / f"{version + 1}.snapshot.json").write_bytes(old)
    error = await refused(client, remote)
    assert "different publications" in error.message


async def test_a_key_of_another_branch_is_refused(signed: SignedFarm, client: Repository) -> None:
    """CI's key signs `builds`; it must not move what testers run."""
    remote = trusting_remote(client, signed)
    head = signed.commit({"f": b"1"}, FASTQA)
    bad = signed.commit({"f": b"bad"})
    target = target_of(FASTQA, bad, 1)
    name = role_of_branch(FASTQA)
    role = Metadata(Targets(2, expires=expiry(name, signed.now), targets={str(FASTQA): target}))
    role.sign(signed.keys[BUILDS])
    signed.force(name, role)
    assert "did not sign" in (await refused(client, remote, FASTQA)).message
    # Nor by slipping the other branch into its own role.
    own = role_of_branch(BUILDS)
    slipped = Metadata(Targets(2, expires=expiry(own, signed.now), targets={str(FASTQA): target}))
    slipped.sign(signed.keys[BUILDS])
    signed.sign(head, FASTQA)
    signed.force(own, slipped)
    assert await head_of(client, remote, FASTQA) == head


async def test_endless_metadata_is_cut_off(signed: SignedFarm, client: Repository) -> None:
    signed.commit({"f": b"1"})
    for path in ("trust/timestamp.json", "trust/2.root.json"):
        async with faulty_server(signed.repository.path) as server:
            server.always[path] = endless
            remote = Remote("farm", server.url, "tuf")
            keep_anchor(client, remote.name, signed.store.first_root())
            error = await refused(client, remote)
            assert "endless" in error.message


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda data: b"",
        lambda data: b"[]",
        lambda data: data.replace(b'"version": 5', b'"version": 6'),
        lambda data: b"{" * 10_000,
        lambda data: data.replace(b'"_type": "timestamp"', b'"_type": "snapshot"'),
    ],
)
async def test_damaged_metadata_is_refused(
    signed: SignedFarm, client: Repository, damage: Callable[[bytes], bytes]
) -> None:
    remote = trusting_remote(client, signed)
    signed.commit({"f": b"1"})
    path = signed.store.directory / "timestamp.json"
    data = damage(path.read_bytes())
    document = json.dumps(json.loads(path.read_bytes()), sort_keys=True).encode()
    path.write_bytes(data if data != path.read_bytes() else document.replace(b"sig", b"gis"))
    await refused(client, remote)


async def test_keys_are_rotated_under_a_client(signed: SignedFarm, client: Repository) -> None:
    """Root, targets, online and branch keys, one after the other; the client follows."""
    remote = trusting_remote(client, signed)
    head = signed.commit({"f": b"0"})
    store, now = signed.store, signed.now
    assert await head_of(client, remote) == head
    new_root, old_root = new_signer(), signed.root
    edit = RootEdit((ROOT,), (new_root.public_key,), (old_root.public_key.keyid,))
    change_root(store, edit, [old_root, new_root], now)
    assert await head_of(client, remote) == head
    new_targets = new_signer()
    edit = RootEdit((TARGETS,), (new_targets.public_key,), (signed.targets.public_key.keyid,))
    change_root(store, edit, [new_root, new_targets], now)
    assert await head_of(client, remote) == head
    new_online = new_signer()
    store.keep_online_key(new_online)
    edit = RootEdit(ONLINE_ROLES, (new_online.public_key,), (signed.online.public_key.keyid,))
    change_root(store, edit, [new_root], now)
    assert await head_of(client, remote) == head
    new_ci, old_ci = new_signer(), signed.keys[BUILDS]
    keys = ([new_ci.public_key], [old_ci.public_key.keyid])
    change_branch(store, keys, [new_targets], [new_ci], now)
    assert await head_of(client, remote) == head
    signed.keys[BUILDS] = new_ci
    assert await head_of(client, remote) == head
    # A client that comes now begins at the first root and walks through all of them.
    later = make_repository(client.path.parent / "later", Mode.BARE_USER)
    assert await head_of(later, trusting_remote(later, signed)) == head
    head = signed.commit({"f": b"1"})
    assert await head_of(client, remote) == head


async def test_a_revoked_key_is_refused(signed: SignedFarm, client: Repository) -> None:
    remote = trusting_remote(client, signed)
    signed.commit({"f": b"0"})
    stolen, new = signed.keys[BUILDS], new_signer()
    keys = ([new.public_key], [stolen.public_key.keyid])
    change_branch(signed.store, keys, [signed.targets], [new], signed.now)
    name = role_of_branch(BUILDS)
    forged = Metadata(deepcopy(signed.store.load().roles[name].signed))
    forged.signed.version += 1
    forged.sign(stolen)
    signed.force(name, forged)
    assert "did not sign" in (await refused(client, remote)).message


async def test_a_server_with_another_root_is_refused(
    signed: SignedFarm, client: Repository, tmp_path: Path
) -> None:
    """An impostor has signed all of it by itself."""
    remote = trusting_remote(client, signed)
    signed.commit({"f": b"0"})
    await head_of(client, remote)
    impostor = SignedFarm(make_repository(tmp_path / "impostor"))
    impostor.commit({"f": b"bad"})
    signed.store.directory.rename(tmp_path / "away")
    impostor.store.directory.rename(signed.store.directory)
    await refused(client, remote)
    fresh = make_repository(tmp_path / "fresh", Mode.BARE_USER)
    async with open_source(remote, patience(FakeTime()), 1) as source:
        with pytest.raises(TrustError, match="fingerprint"):
            await fetch_anchor(source, fingerprint((tmp_path / "away/1.root.json").read_bytes()))
    assert not trust_directory(fresh, "farm").exists()


async def test_a_server_without_metadata_is_refused(signed: SignedFarm, client: Repository) -> None:
    remote = trusting_remote(client, signed)
    for path in signed.store.directory.iterdir():
        path.unlink()
    await refused(client, remote)


async def test_a_server_that_fails_is_no_attack(signed: SignedFarm, client: Repository) -> None:
    async with faulty_server(signed.repository.path) as server:
        server.always["trust/timestamp.json"] = status("503 Busy")
        remote = Remote("farm", server.url, "tuf")
        keep_anchor(client, remote.name, signed.store.first_root())
        with pytest.raises(SourceError, match="503"):
            await head_of(client, remote)


async def test_what_was_seen_survives_and_damage_to_it_does_not_harm(
    signed: SignedFarm, client: Repository
) -> None:
    remote = trusting_remote(client, signed)
    head = signed.commit({"f": b"0"})
    assert await head_of(client, remote) == head
    for path in trust_directory(client, "farm").glob("*.json"):
        if path.name != "anchor.json" and not path.is_symlink():
            path.write_bytes(b"\0" * 10)
    assert await head_of(client, remote) == head


async def test_replaced_answers_are_only_used_when_signed(
    signed: SignedFarm, client: Repository
) -> None:
    signed.commit({"f": b"0"})
    fake = b'{"signatures": [], "signed": {}}'
    async with faulty_server(signed.repository.path) as server:
        server.faults["trust/timestamp.json"].append(replaced(fake))
        remote = Remote("farm", server.url, "tuf")
        keep_anchor(client, remote.name, signed.store.first_root())
        await refused(client, remote)
        assert await head_of(client, remote)
