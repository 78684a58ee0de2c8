"""Promise: what CI signs follows a head that is signed, not one that a server makes up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.client.remote import Remote, add_remote
from hacktree.client.signed_heads import keep_anchor
from hacktree.client.sysroot import prepare_sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.refs import hold_refs, move_ref, read_ref
from hacktree.common.trust.editing import head_signed
from hacktree.common.trust.report import fingerprint
from support.pulling import make_repository
from support.push_server import CI_SECRET
from support.pushing import PushHost, running_host
from support.trees import make_commit
from support.trusting import BUILDS, SignedFarm


class Ci:
    """A build machine that commits a directory and signs it."""

    def __init__(self, base: Path, host: PushHost, farm: SignedFarm) -> None:
        self.base, self.host, self.farm = base, host, farm
        write_durably(base / "key", farm.keys[BUILDS].private_bytes)
        (base / "tree").mkdir()
        self.root = fingerprint(farm.store.first_root())
        self.sysroot = base / "sysroot"
        self.sysroot.mkdir()

    def push(self, content: str, *more: str, status: int = 0) -> None:
        (self.base / "tree/f").write_text(content)
        words = ["--sysroot", str(self.sysroot), "push", "builds", str(self.base / "tree")]
        signed = ["--server", self.host.url, "--sign-with", str(self.base / "key")]
        assert main([*words, *signed, *more]) == status


@pytest.fixture
def ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ci]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HACKTREE_TOKEN", CI_SECRET)
    farm = SignedFarm(make_repository(tmp_path / "server"))
    with running_host(farm.repository) as host:
        yield Ci(tmp_path, host, farm)


def test_a_directory_follows_the_signed_head(ci: Ci, capsys: pytest.CaptureFixture[str]) -> None:
    ci.push("1", status=2)
    assert "--root-fingerprint" in capsys.readouterr().err
    ci.push("1", "--root-fingerprint", ci.root)
    first = read_ref(ci.farm.repository, "builds")
    assert first is not None
    # Whoever has the server moves its ref, to a build of theirs.
    evil = make_commit(ci.farm.repository, {"bin/sh": b"evil"}, branch="builds")
    ci.push("2", status=6)
    assert head_signed(ci.farm.store.load(), BUILDS) == first
    with hold_refs(ci.farm.repository):
        move_ref(ci.farm.repository, "builds", first, expected=evil)
    ci.push("2")
    second = read_ref(ci.farm.repository, "builds")
    assert second is not None
    assert head_signed(ci.farm.store.load(), BUILDS) == second
    assert ci.farm.repository.load_commit(second).parents == (first,)
    # The root is remembered: another one is refused.
    ci.push("3", "--root-fingerprint", "0" * 64, status=4)


def test_the_root_of_a_remote_of_this_machine_counts(ci: Ci) -> None:
    repository = prepare_sysroot(ci.sysroot).repository
    add_remote(repository, Remote("farm", ci.host.url + "/", "tuf"))
    keep_anchor(repository, "farm", ci.farm.store.first_root())
    ci.push("1")
    assert head_signed(ci.farm.store.load(), BUILDS) == read_ref(ci.farm.repository, "builds")


def test_a_wrong_fingerprint_sends_nothing(ci: Ci) -> None:
    ci.push("1", "--root-fingerprint", "0" * 64, status=4)
    assert read_ref(ci.farm.repository, "builds") is None
