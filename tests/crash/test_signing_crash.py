"""Promise: a farm killed while it takes a signer's work, or new keys, has the old or the new."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import open_repository
from hacktree.common.trust import changes, editing
from hacktree.common.trust.pending import Pending, encode_pending
from hacktree.common.trust.roles import ROOT
from hacktree.common.trust.store import TrustStore
from hacktree.common.trust.verifying import AbsentError, TrustedRemote
from hacktree.server.promotion.messages import encode
from hacktree.server.promotion.promoted import Note, Place, promoted_commit
from hacktree.server.promotion.signing_messages import PromotionRequest
from support.kill import every_kill
from support.pulling import make_repository
from support.qa import FASTQA, PASS, START, QaFarm
from support.servers import hacktree_program
from support.trusting import BUILDS, SignedFarm, new_signer

ACCEPT = Path(__file__).parents[1] / "support" / "accept_promotion.py"


def test_a_farm_that_dies_over_a_promotion_takes_it_when_it_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signer sends the same commit and role until it is answered."""
    monkeypatch.setenv("PYTHONPATH", str(ACCEPT.parents[1]))
    prepared, farm, request = tmp_path / "prepared", tmp_path / "farm", tmp_path / "request"
    qa = QaFarm(make_repository(prepared))
    signed = SignedFarm(qa.repository)
    build = qa.build()
    signed.sign(build, BUILDS)
    qa.judge(PASS)
    original = qa.repository.load_commit(build)
    new = promoted_commit(Place(FASTQA, None, None), build, original, Note("passed", "me"), START)
    role = editing.sign_branch(
        FASTQA, new.id, len(new.encoded), 0, signed.keys[FASTQA], datetime.now(UTC)
    )
    request.write_bytes(encode(PromotionRequest(FASTQA, new.encoded, role.to_bytes())))
    command = [sys.executable, str(ACCEPT), str(farm), str(request), str(START)]
    shutil.copytree(prepared, farm)
    for occurrence in every_kill(command, "rename"):
        repository = open_repository(farm)
        signature = editing.head_signed(TrustStore(repository).load(), FASTQA)
        assert read_ref(repository, FASTQA) in (None, signature), "moved, and nobody signed"
        subprocess.run(command, check=True, capture_output=True)
        assert read_ref(repository, FASTQA) == new.id, occurrence
        assert editing.head_signed(TrustStore(repository).load(), FASTQA) == new.id
        shutil.rmtree(farm)
        shutil.copytree(prepared, farm)


def test_a_killed_apply_is_completed_by_the_next(tmp_path: Path) -> None:
    """And whatever it left, clients can follow: the old keys count, or the new."""
    prepared, farm, file = tmp_path / "prepared", tmp_path / "farm", tmp_path / "change.json"
    signed = SignedFarm(make_repository(prepared))
    head = signed.commit({"f": b"1"})
    now = datetime.now(UTC)
    anchor, state, new = signed.store.first_root(), signed.store.load(), new_signer()
    edit = changes.RootEdit((ROOT,), (new.public_key,), (signed.root.public_key.keyid,))
    change = changes.propose_root(state, edit, now)
    for key in (signed.root, new):
        changes.sign_change(change, state.root.signed, key)
    write_durably(file, encode_pending(Pending.of(state, change)))

    def follow(number: int) -> None:
        client = tmp_path / f"client-{number}"
        client.mkdir()
        trusted = TrustedRemote(client, "the farm")
        trusted.keep_anchor(anchor)
        assert trusted.read_head(BUILDS, read) == head

    def read(name: str, _: int) -> bytes:
        path = farm / "trust" / name
        if not path.exists():
            raise AbsentError(name)
        return path.read_bytes()

    command = [hacktree_program(), "--repo", str(farm), "trust", "apply", str(file)]
    shutil.copytree(prepared, farm)
    for occurrence in every_kill(command, "rename"):
        follow(2 * occurrence)
        subprocess.run(command, check=True, capture_output=True)
        follow(2 * occurrence + 1)
        assert TrustStore(open_repository(farm)).load().root.signed.version == 2
        shutil.rmtree(farm)
        shutil.copytree(prepared, farm)
