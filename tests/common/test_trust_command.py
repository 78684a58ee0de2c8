"""`hacktree trust` from the first key to a rotated one, as an operator types it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hacktree.common.cli.main import main
from support.pulling import make_repository
from support.trees import make_commit


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    repository = make_repository(tmp_path / "farm")
    make_commit(repository, {"f": b"1"}, branch="builds")
    (tmp_path / "pass").write_text("secret\n")
    (tmp_path / "keys").mkdir()
    return repository.path


def trust(farm: Path, *words: str) -> int:
    base = farm.parent
    full = [word.replace("K/", f"{base}/keys/") for word in words]
    locked = [] if words[0] == "status" else ["--passphrase-file", str(base / "pass")]
    return main(["--repo", str(farm), "trust", *full, *locked])


def status(farm: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert trust(farm, "status", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    return {role["name"]: role for role in report["roles"]} | {"": report["root-fingerprint"]}


def found(farm: Path) -> None:
    assert trust(farm, "init", "--root-key", "K/root", "--targets-key", "K/targets") == 0
    assert trust(farm, "new-key", "K/ci") == 0
    assert trust(farm, "delegate", "builds", "--key", "K/ci.pub", "--sign-with", "K/targets") == 0


def test_from_the_first_key_to_a_signed_branch(
    farm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trust(farm, "status") == 2
    assert "trust init" in capsys.readouterr().err
    found(farm)
    assert status(farm, capsys)["builds"]["behind"]
    assert trust(farm, "sign", "builds", "--key", "K/ci") == 0
    roles = status(farm, capsys)
    assert not roles["builds"]["behind"]
    assert len(roles[""]) == 64
    assert trust(farm, "status") == 0
    shown = capsys.readouterr().out
    assert roles[""] in shown
    assert "builds" in shown
    assert trust(farm, "init", "--root-key", "K/root", "--targets-key", "K/targets") == 2
    assert trust(farm, "renew") == 0
    assert "Nothing expires soon" in capsys.readouterr().out


def test_keys_are_added_and_rotated(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found(farm)
    assert trust(farm, "sign", "builds", "--key", "K/ci") == 0
    assert trust(farm, "new-key", "K/ci2") == 0
    assert trust(farm, "sign", "builds", "--key", "K/ci2") == 2
    assert trust(farm, "add-key", "builds", "--key", "K/ci2.pub", "--sign-with", "K/targets") == 0
    assert trust(farm, "sign", "builds", "--key", "K/ci2") == 0
    old = status(farm, capsys)["builds"]["keys"][0]
    rotate = ("rotate", "builds", "--revoke", old[:12], "--sign-with", "K/targets")
    assert trust(farm, *rotate, "--key", "K/ci2") == 0
    assert trust(farm, "sign", "builds", "--key", "K/ci") == 2
    assert len(status(farm, capsys)["builds"]["keys"]) == 1
    before = status(farm, capsys)["timestamp"]["keys"]
    assert trust(farm, "rotate", "online", "--sign-with", "K/root") == 0
    assert status(farm, capsys)["timestamp"]["keys"] != before
    assert trust(farm, "new-key", "K/targets2") == 0
    first = status(farm, capsys)["targets"]["keys"][0]
    rotate = ("rotate", "targets", "--revoke", first, "--key", "K/targets2")
    assert trust(farm, *rotate, "--sign-with", "K/root") == 0
    assert status(farm, capsys)["targets"]["keys"] != [first]
    assert trust(farm, "new-key", "K/root2") == 0
    assert trust(farm, "add-key", "root", "--key", "K/root2.pub", "--sign-with", "K/root") == 0
    assert len(status(farm, capsys)["root"]["keys"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("sign", "builds", "--key", "K/nothing"),
        ("sign", "other", "--key", "K/ci"),
        ("delegate", "builds", "--key", "K/ci.pub", "--sign-with", "K/targets"),
        ("delegate", "x", "--key", "K/ci.pub"),
        ("delegate", "x", "--key", "K/ci.pub", "--sign-with", "K/ci"),
        ("rotate", "builds", "--sign-with", "K/targets"),
        ("rotate", "builds", "--revoke", "ffff", "--sign-with", "K/targets"),
        ("rotate", "nobranch", "--revoke", "ffff", "--sign-with", "K/targets"),
        ("rotate", "online", "--key", "K/ci", "--sign-with", "K/root"),
        ("add-key", "nobranch", "--key", "K/ci.pub", "--sign-with", "K/targets"),
        ("renew", "--branch", "builds"),
        ("new-key", "K/ci"),
    ],
)
def test_what_makes_no_sense_is_refused(
    farm: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    found(farm)
    before = (farm / "trust/timestamp.json").read_bytes()
    assert trust(farm, *words) == 2
    assert capsys.readouterr().err.startswith("hacktree: ")
    assert (farm / "trust/timestamp.json").read_bytes() == before


def test_a_passphrase_is_never_guessed(farm: Path, tmp_path: Path) -> None:
    """Without a terminal and without a file there is none; a key is not left open by accident."""
    script = "import sys; from hacktree.common.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, "trust", "new-key", str(tmp_path / "k")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--passphrase-file" in done.stderr
    assert not (tmp_path / "k").exists()
    (tmp_path / "empty").write_bytes(b"\n")
    words = ["trust", "new-key", str(tmp_path / "k"), "--passphrase-file"]
    assert main([*words, str(tmp_path / "empty")]) == 2
    assert main([*words, str(tmp_path / "missing")]) == 2
    assert main(["trust", "new-key", str(tmp_path / "k"), "--no-passphrase"]) == 0
