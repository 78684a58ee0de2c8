"""Promise: a change that several must sign travels as a file, and nobody signs what isn't shown."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile

from hacktree.client.connect import open_source
from hacktree.client.remote import Remote, add_remote
from hacktree.client.signed_heads import SignedHeads, keep_anchor
from hacktree.common.cli.main import main
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.trust.keys import load_signer
from hacktree.common.trust.pending import (
    MAX_PENDING,
    PendingInvalidError,
    decode_pending,
    encode_pending,
    merge_pending,
)
from hacktree.common.trust.store import TrustStore
from support.documents import commands_in
from support.pulling import FakeTime, make_repository, patience
from support.trees import make_commit
from support.trusting import BUILDS, new_signer


class Places:
    """A farm, and three people with a root key each, in directories of their own."""

    def __init__(self, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.base, self.capsys = base, capsys
        self.farm = make_repository(base / "farm")
        self.head = make_commit(self.farm, {"f": b"1"}, branch="builds")
        for name in ("ann", "ben", "eve", "ci"):
            (base / name).mkdir()
            self.run("new-key", f"{name}/key", "--no-passphrase")
        roots = [word for name in ("ann", "ben", "eve") for word in ("--root-key", f"{name}/key")]
        self.on_farm("init", *roots, "--threshold", "2", "--targets-key", "ann/targets",
                     "--no-passphrase")  # fmt: skip
        self.on_farm("delegate", "builds", "--key", "ci/key.pub", "--sign-with", "ann/targets")
        self.on_farm("sign", "builds", "--key", "ci/key")

    def run(self, *words: str, status: int = 0, farm: bool = False) -> str:
        """The command; a word with a slash, or a file's name, is below the base."""
        places = [str(self.base / w) if "/" in w or w.endswith(".json") else w for w in words]
        repository = ["--repo", str(self.farm.path)] if farm else []
        self.capsys.readouterr()
        assert main([*repository, "trust", *places]) == status, self.capsys.readouterr().err
        shown = self.capsys.readouterr()
        return shown.out + shown.err

    def on_farm(self, *words: str, status: int = 0) -> str:
        return self.run(*words, status=status, farm=True)

    def keyid(self, name: str) -> str:
        return str(load_signer(self.base / name, None).public_key.keyid)

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.on_farm("status", "--json"))
        return report

    def propose(self, *more: str) -> None:
        """Eve leaves: her key goes, Dan's comes. Nobody has signed yet."""
        if not (self.base / "dan").exists():
            (self.base / "dan").mkdir()
            self.run("new-key", "dan/key", "--no-passphrase")
        self.on_farm(
            "rotate", "root", "--revoke", self.keyid("eve/key")[:12], "--key", "dan/key.pub",
            "--pending", "change.json", *more,
        )  # fmt: skip

    def sign(self, name: str, file: str = "change.json") -> str:
        return self.run("cosign", file, "--key", f"{name}/key", "--yes")


@pytest.fixture
def places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Places:
    return Places(tmp_path, capsys)


async def test_two_of_three_rotate_the_root_and_clients_follow(
    places: Places, tmp_path: Path
) -> None:
    client, remote = make_repository(tmp_path / "client"), remote_of(places.farm)
    add_remote(client, remote)
    keep_anchor(client, remote.name, TrustStore(places.farm).first_root())
    assert await head_of(client, remote) == places.head
    places.propose()
    shown = places.run("cosign", "change.json")
    assert f"+ {places.keyid('dan/key')}  ADDED" in shown
    assert f"- {places.keyid('eve/key')}  REMOVED" in shown
    assert places.status()["current-root"] in shown
    assert "2 of 3 keys" in shown
    before = (places.farm.path / "trust/timestamp.json").read_bytes()
    assert "0 of 2" in places.on_farm("apply", "change.json", status=2)
    assert "1 of 2" in places.sign("ann")
    assert "1 of 2" in places.on_farm("apply", "change.json", status=2)
    assert (places.farm.path / "trust/timestamp.json").read_bytes() == before
    assert not (places.farm.path / "trust/2.root.json").exists()
    assert "complete" in places.sign("ben")
    places.on_farm("apply", "change.json")
    (root,) = [role for role in places.status()["roles"] if role["name"] == "root"]
    assert (root["version"], root["threshold"]) == (2, 2)
    assert places.keyid("eve/key") not in root["keys"]
    assert await head_of(client, remote) == places.head
    # From now on Dan counts, and Eve doesn't.
    places.on_farm("renew", "--role", "root", "--pending", "change.json")
    assert "doesn't count" in places.run(
        "cosign", "change.json", "--key", "eve/key", "--yes", status=2
    )
    places.sign("dan")
    places.sign("ann")
    places.on_farm("apply", "change.json")
    assert await head_of(client, remote) == places.head


def remote_of(farm: Repository) -> Remote:
    return Remote("farm", f"file://{farm.path}", "tuf")


async def head_of(client: Repository, remote: Remote) -> bytes:
    async with open_source(remote, patience(FakeTime()), 4) as source:
        return await SignedHeads(client, remote, source).read_head(BUILDS)


def test_copies_that_were_signed_apart_are_merged(places: Places) -> None:
    places.propose("--sign-with", "ann/key")
    shutil.copy(places.base / "change.json", places.base / "copy.json")
    places.sign("ben", "copy.json")
    places.on_farm("apply", "change.json", "copy.json")
    assert [r["version"] for r in places.status()["roles"] if r["name"] == "root"] == [2]


def test_what_is_out_of_date_is_refused(places: Places) -> None:
    places.propose()
    shutil.copy(places.base / "change.json", places.base / "old.json")
    for name in ("ann", "ben"):
        places.sign(name)
        places.sign(name, "old.json")
    places.on_farm("renew", "--role", "root", "--sign-with", "ann/key", "--sign-with", "ben/key")
    assert "version 2 is published" in places.on_farm("apply", "old.json", status=6)
    places.propose("--sign-with", "ann/key", "--sign-with", "ben/key")
    places.on_farm("apply", "change.json")
    # Again, as after a lost connection: nothing is wrong.
    places.on_farm("apply", "change.json")


def test_a_kill_between_root_and_timestamp_is_completed(places: Places) -> None:
    places.propose("--sign-with", "ann/key", "--sign-with", "ben/key")
    pending = decode_pending((places.base / "change.json").read_bytes())
    store = TrustStore(open_repository(places.farm.path))
    assert pending.change.root is not None
    store.publish_root(pending.change.root, store.load().root)
    before = store.load().timestamp.signed.version
    places.on_farm("apply", "change.json")
    assert store.load().timestamp.signed.version == before + 1


def test_branches_travel_too_and_are_signed_again(places: Places) -> None:
    places.run("new-key", "ci/next", "--no-passphrase")
    words = ("rotate", "builds", "--revoke", places.keyid("ci/key")[:12], "--key", "ci/next.pub")
    places.on_farm(*words, "--pending", "change.json")
    assert "branch builds" in places.run("cosign", "change.json")
    places.run("cosign", "change.json", "--key", "ann/targets", "--yes")
    assert "no longer count" in places.on_farm("apply", "change.json", status=2)
    places.on_farm("apply", "change.json", "--resign-with", "ci/next")
    (builds,) = [role for role in places.status()["roles"] if role["name"] == "builds"]
    assert builds["keys"] == [places.keyid("ci/next")]
    assert builds["head"] == places.head.hex()


def test_nobody_signs_unasked_or_from_another_root(places: Places) -> None:
    places.propose()
    assert "--yes" in places.run("cosign", "change.json", "--key", "ann/key", status=2)
    other = ("cosign", "change.json", "--key", "ann/key", "--yes", "--current-root", "0" * 64)
    assert "another one" in places.run(*other, status=2)
    right = places.status()["current-root"]
    places.run("cosign", "change.json", "--key", "ann/key", "--yes", "--current-root", right)


Edit = Callable[[dict[str, Any], CryptoSigner], None]


def change_key(document: dict[str, Any], evil: CryptoSigner) -> None:
    """A key that goes by the name of another."""
    keys = document["after"]["root"]["signed"]["keys"]
    next(iter(keys.values()))["keyval"] = {"public": evil.public_key.keyval["public"]}


def add_target(document: dict[str, Any], _: CryptoSigner) -> None:
    """The targets role signs a head itself."""
    target = TargetFile(3, {"sha256": "0" * 64}, "builds").to_dict()
    document["after"]["targets"]["signed"]["targets"] = {"builds": target}


def hide_role(document: dict[str, Any], _: CryptoSigner) -> None:
    """A role by another name, which is asked before that of the branch."""
    roles = document["after"]["targets"]["signed"]["delegations"]["roles"]
    roles.insert(0, {**roles[0], "name": "branch-" + "0" * 32})


def widen_role(document: dict[str, Any], _: CryptoSigner) -> None:
    document["after"]["targets"]["signed"]["delegations"]["roles"][0]["paths"] = ["*"]


def add_field(document: dict[str, Any], _: CryptoSigner) -> None:
    document["after"]["root"]["signed"]["x-later"] = "who knows"


def skip_version(document: dict[str, Any], _: CryptoSigner) -> None:
    document["after"]["root"]["signed"]["version"] = 7


def lower_threshold(document: dict[str, Any], _: CryptoSigner) -> None:
    document["after"]["root"]["signed"]["roles"]["root"]["threshold"] = 0


def forge_before(document: dict[str, Any], evil: CryptoSigner) -> None:
    """What was published, said to be otherwise: so that a key looks as if it had been there."""
    root = Metadata.from_dict(document["before"]["root"])
    root.signed.add_key(evil.public_key, "root")
    document["before"]["root"] = root.to_dict()


def break_escape(document: dict[str, Any], _: CryptoSigner) -> None:
    document["after"]["targets"]["signed"]["delegations"]["roles"][0]["paths"] = ["\x1b[2Jbuilds"]


def nothing_left(document: dict[str, Any], _: CryptoSigner) -> None:
    document["after"] = {}


@pytest.mark.parametrize(
    "edit",
    [
        change_key, add_target, hide_role, widen_role, add_field, skip_version, lower_threshold,
        forge_before, break_escape, nothing_left,
    ],
)  # fmt: skip
def test_a_file_that_hides_something_is_refused(places: Places, edit: Edit) -> None:
    if edit in (add_target, hide_role, widen_role, break_escape):
        places.on_farm("renew", "--role", "targets", "--pending", "change.json")
    else:
        places.propose()
    path = places.base / "change.json"
    document = json.loads(path.read_bytes())
    edit(document, new_signer())
    path.write_text(json.dumps(document))
    told = places.run("cosign", "change.json", "--key", "ann/key", "--yes", status=2)
    assert told.startswith("hacktree: the file is no change that could be signed")
    assert "\x1b" not in told
    places.on_farm("apply", "change.json", status=2)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}',
        b'{"format": "hacktree pending change 1", "before": {}, "after": {}}',
        b" " * (MAX_PENDING + 1),
    ],
)  # fmt: skip
def test_what_is_no_file_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(PendingInvalidError):
        decode_pending(data)


def test_files_with_different_changes_are_not_merged(places: Places) -> None:
    places.propose()
    first = decode_pending((places.base / "change.json").read_bytes())
    assert encode_pending(first) == (places.base / "change.json").read_bytes()
    places.on_farm("renew", "--role", "root", "--pending", "change.json")
    second = decode_pending((places.base / "change.json").read_bytes())
    with pytest.raises(PendingInvalidError, match="different changes"):
        merge_pending([first, second])


def test_the_commands_of_the_document_work(places: Places, tmp_path: Path) -> None:
    """docs/operations.md, "Signing in several places", in order."""
    (tmp_path / "new").mkdir()
    places.run("new-key", "new/root", "--no-passphrase")
    lines = commands_in("Signing in several places")
    assert len(lines) == 5
    for line in lines:
        line = line.replace("/srv/tree", str(places.farm.path)).replace("/media/", f"{tmp_path}/")
        line = line.replace("ann/root", "ann/key").replace("ben/root", "ben/key")
        line = line.replace("KEYID", places.keyid("eve/key")).replace(
            "change.json", str(tmp_path / "change.json")
        )
        program, *words = shlex.split(line)
        assert program == "hacktree"
        assert main(words) == 0, line
    (root,) = [role for role in places.status()["roles"] if role["name"] == "root"]
    assert places.keyid("new/root") in root["keys"]
