"""`hacktree token` and what docs/operations.md shows of it: as people and scripts run it."""

import json
import re
import shlex
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hacktree.common.cli.main import main
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.repository import open_repository
from hacktree.server.database import open_database
from hacktree.server.grants import Action
from hacktree.server.tokens import TokenRefusedError, authenticate
from support.documents import commands_in
from support.servers import hacktree_program

BUILDS = parse_branch_name("builds")
GRANTING = "--can push:builds --expires 90d"


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    init_repository(tmp_path / "farm", Mode.ARCHIVE)
    return tmp_path / "farm"


def run(farm: Path, *arguments: str) -> int:
    return main(["--repo", str(farm), "token", *arguments])


def read_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_standard_output_is_the_secret_and_nothing_else(farm: Path) -> None:
    """`SECRET=$(hacktree token create …)` works, and a person is told that it is shown once."""
    done = subprocess.run(
        shlex.split(f"{hacktree_program()} --repo {farm} token create {GRANTING}"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"ht_[0-9a-f]{8}_[A-Za-z0-9_-]{43}\n", done.stdout)
    assert "can't be shown again" in done.stderr
    token = authenticate(
        open_database(open_repository(farm)), done.stdout.strip(), int(time.time())
    )
    assert token.allows(Action.PUSH, BUILDS)
    assert not token.allows(Action.PROMOTE, BUILDS)
    assert token.expires == token.created + 90 * 86400


def test_create_list_revoke(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--can", "verdict:*", "--can", "push:builds", "--expires", "never"]
    assert run(farm, "create", *arguments, "--label", "runner 7", "--json") == 0
    made = read_json(capsys)
    secret = made.pop("secret")
    assert made["grants"] == ["push:builds", "verdict:*"]
    assert run(farm, "list") == 0
    listing = capsys.readouterr().out
    assert f"{made['id']}  active   push:builds verdict:*  (runner 7)" in listing
    assert "expires never, last used never" in listing
    assert secret[12:] not in listing
    database = open_database(open_repository(farm))
    authenticate(database, secret, made["created"])
    assert main(["--json", "--repo", str(farm), "token", "list"]) == 0
    assert read_json(capsys) == [{**made, "last-used": made["created"]}]
    assert run(farm, "revoke", made["id"]) == 0
    assert "is revoked" in capsys.readouterr().out
    assert run(farm, "revoke", made["id"], "--json") == 0
    assert read_json(capsys)["standing"] == "revoked"
    with pytest.raises(TokenRefusedError):
        authenticate(database, secret, made["created"])


def test_an_empty_list_says_what_to_do(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(farm, "list") == 0
    assert "token create" in capsys.readouterr().out
    assert run(farm, "list", "--json") == 0
    assert read_json(capsys) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--can", "push", "--expires", "90d"),
        ("create", "--can", "push:a//b", "--expires", "90d"),
        ("create", "--can", "push:builds", "--expires", "90"),
        ("create", "--can", "push:builds", "--expires", "0d"),
        ("create", "--can", "push:builds", "--expires", "40000d"),
        ("create", "--can", "push:builds", "--expires", "9" * 400 + "d"),
        ("create", "--can", "push:builds", "--expires=-1d"),
        ("create", "--can", "push:builds", "--expires", "90d", "--label", "two\nlines"),
        ("revoke", "3f9c21ab"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(
    farm: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(farm, *arguments) == 2
    assert capsys.readouterr().err.startswith("hacktree: ")
    assert run(farm, "list", "--json") == 0
    assert read_json(capsys) == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("create", "--can", "push:builds"),
        ("create", "--expires", "90d"),
        ("revoke",),
    ],
)
def test_wrong_usage(farm: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(farm, *arguments)
    assert ended.value.code == 2


def test_a_machine_that_only_pulls_has_no_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_repository(tmp_path / "bare", Mode.BARE_USER)
    assert run(tmp_path / "bare", "list") == 2
    assert "archive" in capsys.readouterr().err


def test_a_damaged_or_newer_database_is_told(
    farm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(farm, "list") == 0
    with closing(sqlite3.connect(farm / "state/server.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 999")
    assert run(farm, "list") == 2
    assert "newer hacktree" in capsys.readouterr().err
    (farm / "state/server.sqlite").write_bytes(b"nonsense" * 1000)
    assert run(farm, "list", "--json") == 5
    assert json.loads(capsys.readouterr().err)["error"]["exit-status"] == 5


def test_the_commands_of_the_document_work(farm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/operations.md, "Tokens", in order; ids are those that were made."""
    made: list[str] = []
    lines = commands_in("Tokens")
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line.replace("/srv/hacktree", str(farm)))
        assert words.pop(0) == "hacktree"
        words = [made[0] if re.fullmatch(r"[0-9a-f]{8}", word) else word for word in words]
        assert main(words) == 0, line
        made += re.findall(r"^ht_([0-9a-f]{8})_", capsys.readouterr().out, re.MULTILINE)
    assert run(farm, "list", "--json") == 0
    standing = {token["id"]: token["standing"] for token in read_json(capsys)}
    assert standing[made[0]] == "revoked"
