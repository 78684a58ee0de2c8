"""Promise: a signer that is killed anywhere is made good by the next; nothing is promoted twice."""

import shutil
import subprocess
from pathlib import Path

import pytest

from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import open_repository
from hacktree.common.trust.editing import head_signed
from hacktree.common.trust.store import TrustStore
from support.kill import every_kill
from support.pulling import make_repository
from support.qa import FASTQA, PASS, QaFarm
from support.servers import hacktree_program
from support.trusting import BUILDS, SignedFarm


@pytest.mark.parametrize("syscall", ["rename", "unlink"])
def test_a_killed_signer_is_made_good(tmp_path: Path, syscall: str) -> None:
    prepared, farm, key = tmp_path / "prepared", tmp_path / "farm", tmp_path / "key"
    qa = QaFarm(make_repository(prepared))
    signed = SignedFarm(qa.repository)
    write_durably(key, signed.keys[FASTQA].private_bytes)
    build = qa.build()
    signed.sign(build, BUILDS)
    qa.judge(PASS)
    command = [hacktree_program(), "--repo", str(farm), "qa", "sign", "fastqa", "--key", str(key)]
    shutil.copytree(prepared, farm)
    for occurrence in every_kill(command, syscall):
        subprocess.run(command, check=True, capture_output=True)
        repository = open_repository(farm)
        head = read_ref(repository, FASTQA)
        assert head is not None, occurrence
        commit = repository.load_commit(head)
        assert commit.metadata["promoted-from"] == build.hex()
        assert commit.sequence == 1, "it was promoted twice"
        assert head_signed(TrustStore(repository).load(), FASTQA) == head
        shutil.rmtree(farm)
        shutil.copytree(prepared, farm)
