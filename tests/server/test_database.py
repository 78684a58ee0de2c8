"""Promise: what the server's database acknowledged is there, whatever happened to its writer."""

import os
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from hacktree.common.errors import SystemFault
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.server import database as module
from hacktree.server.database import (
    Database,
    DatabaseBusyError,
    DatabaseDamagedError,
    DatabaseTooNewError,
    NotAFarmError,
    backup,
    database_path,
    open_database,
)
from hacktree.server.grants import parse_grant
from hacktree.server.migrations import MIGRATIONS, Migration
from hacktree.server.tokens import authenticate, create_token, list_tokens

NOW = 1_800_000_000
PUSH = (parse_grant("push:builds"),)

WRITER = """
import sys
from pathlib import Path
from hacktree.common.repository.repository import open_repository
from hacktree.server.database import open_database
from hacktree.server.grants import parse_grant
from hacktree.server.tokens import create_token

database = open_database(open_repository(Path(sys.argv[1])))
count = 0
while count != int(sys.argv[2]):
    grants = [parse_grant("push:builds"), parse_grant(f"verdict:b{count}")]
    print(create_token(database, grants, "", None, 1_800_000_000)[0].id, flush=True)
    count += 1
"""


@pytest.fixture
def farm(tmp_path: Path) -> Repository:
    init_repository(tmp_path / "farm", Mode.ARCHIVE)
    return open_repository(tmp_path / "farm")


def writer(repository: Repository, count: int) -> subprocess.Popen[str]:
    """A process that makes `count` tokens (-1: until it is killed) and prints their ids."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(repository.path), str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


# What it is


def test_it_is_private_and_logs_ahead(farm: Repository) -> None:
    database = open_database(farm)
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600
    assert pragma(database.path, "journal_mode") == "wal"
    with database.writing() as connection:
        names = sorted(path.name for path in farm.state.glob("server.sqlite*"))
        assert names == ["server.sqlite", "server.sqlite-shm", "server.sqlite-wal"]
        for name in names:
            assert stat.S_IMODE((farm.state / name).stat().st_mode) == 0o600
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (10_000,)


def test_a_directory_with_any_name_will_do(tmp_path: Path) -> None:
    place = tmp_path / "a b?mode=ro&x=%20#é"
    init_repository(place, Mode.ARCHIVE)
    create_token(open_database(open_repository(place)), PUSH, "", None, NOW)
    assert (place / "state/server.sqlite").stat().st_size > 0


def test_a_file_that_a_killed_process_left_empty_is_a_new_database(farm: Repository) -> None:
    database_path(farm).touch()
    assert list_tokens(open_database(farm)) == []


def test_a_private_machine_has_none(tmp_path: Path) -> None:
    init_repository(tmp_path / "bare", Mode.BARE_USER)
    repository = open_repository(tmp_path / "bare")
    with pytest.raises(NotAFarmError, match="bare-user"):
        open_database(repository)
    assert not database_path(repository).exists()


def test_a_block_that_raises_is_undone(farm: Repository) -> None:
    database = open_database(farm)
    create_token(database, PUSH, "kept", None, NOW)

    def fail() -> None:
        with database.writing() as connection:
            connection.execute("DELETE FROM tokens")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [token.label for token in list_tokens(database)] == ["kept"]


def test_a_token_takes_its_grants_with_it_and_no_grant_stands_alone(farm: Repository) -> None:
    database = open_database(farm)
    create_token(database, PUSH, "", None, NOW)
    with database.writing() as connection:
        connection.execute("DELETE FROM tokens")
        assert connection.execute("SELECT count(*) FROM token_grants").fetchone() == (0,)
    with pytest.raises(sqlite3.IntegrityError), database.writing() as connection:
        connection.execute("INSERT INTO token_grants VALUES ('0123abcd', 'push', 'builds')")


def test_a_reader_sees_one_moment_while_others_write(farm: Repository) -> None:
    database = open_database(farm)
    create_token(database, PUSH, "", None, NOW)
    count = "SELECT count(*) FROM tokens"
    with database.reading() as connection:
        assert connection.execute(count).fetchone() == (1,)
        create_token(database, PUSH, "", None, NOW)
        assert connection.execute(count).fetchone() == (1,)
    assert len(list_tokens(database)) == 2


# Migrations


def test_the_first_version_is_still_understood(farm: Repository) -> None:
    """The first schema, written out here: a step that was released is never edited."""
    path = database_path(farm)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE tokens (id TEXT NOT NULL PRIMARY KEY, digest BLOB NOT NULL,
                label TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER,
                last_used INTEGER) WITHOUT ROWID;
            CREATE TABLE token_grants (token TEXT NOT NULL REFERENCES tokens (id)
                ON DELETE CASCADE, action TEXT NOT NULL, pattern TEXT NOT NULL,
                PRIMARY KEY (token, action, pattern)) WITHOUT ROWID;
            INSERT INTO tokens VALUES ('0123abcd',
                x'0f007385b6f9d4b7eeb2748605afe1a984a0a3bfa3f014d09e2a784ce9e5cd1a',
                'old', 1700000000, NULL, NULL, NULL);
            INSERT INTO token_grants VALUES ('0123abcd', 'push', 'builds');
            PRAGMA user_version = 1;
            PRAGMA application_id = 0x48745372;""")
        connection.commit()
    token = authenticate(open_database(farm), f"ht_0123abcd_{'A' * 43}", NOW)
    assert (token.label, token.grants) == ("old", PUSH)


ADDED: Migration = (
    "CREATE TABLE later (build BLOB PRIMARY KEY, token TEXT REFERENCES tokens (id))",
    "INSERT INTO later SELECT x'00', id FROM tokens",
)


def test_an_older_database_is_migrated_with_what_is_in_it(farm: Repository) -> None:
    token, secret = create_token(open_database(farm), PUSH, "", None, NOW)
    database = open_database(farm, (*MIGRATIONS, ADDED))
    assert pragma(database.path, "user_version") == len(MIGRATIONS) + 1
    with database.reading() as connection:
        assert connection.execute("SELECT token FROM later").fetchall() == [(token.id,)]
    assert authenticate(database, secret, NOW).id == token.id


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("CREATE TABEL later (x)", sqlite3.OperationalError),
        ("INSERT INTO token_grants VALUES ('00000000', 'push', 'builds')", DatabaseDamagedError),
    ],
)
def test_a_step_that_fails_leaves_the_version_before_it(
    farm: Repository, statement: str, error: type[Exception]
) -> None:
    create_token(open_database(farm), PUSH, "", None, NOW)
    failing = (ADDED[0], statement)
    with pytest.raises(error):
        open_database(farm, (*MIGRATIONS, failing))
    database = open_database(farm)
    assert pragma(database.path, "user_version") == len(MIGRATIONS)
    with database.reading() as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'later'")
        assert tables.fetchall() == []
    assert len(list_tokens(database)) == 1


def test_many_open_a_new_database_at_once(farm: Repository) -> None:
    """Each gets the whole schema; none fails because another makes it."""

    def open_it(_: int) -> str:
        return create_token(open_database(farm), PUSH, "", None, NOW)[0].id

    with ThreadPoolExecutor(12) as executor:
        ids = set(executor.map(open_it, range(12)))
    assert {token.id for token in list_tokens(open_database(farm))} == ids


# Refusals


def test_a_newer_database_is_refused_and_left_alone(farm: Repository) -> None:
    path = open_database(farm, (*MIGRATIONS, ADDED)).path
    with pytest.raises(DatabaseTooNewError, match="newer hacktree") as refused:
        open_database(farm)
    assert "Upgrade" in refused.value.hint
    assert pragma(path, "user_version") == len(MIGRATIONS) + 1


def test_a_strange_or_damaged_file_is_refused(farm: Repository) -> None:
    path = database_path(farm)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseDamagedError) as refused:
        open_database(farm)
    assert "backup" in refused.value.hint
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(DatabaseDamagedError, match="not a database of hacktree"):
        open_database(farm)


def test_damage_inside_is_found_on_opening(farm: Repository) -> None:
    database = open_database(farm)
    for _ in range(200):
        create_token(database, PUSH, "x" * 100, None, NOW)
    data = bytearray(database.path.read_bytes())
    data[4096 * 3 : 4096 * 4] = os.urandom(4096)
    database.path.write_bytes(data)
    with pytest.raises(DatabaseDamagedError):
        open_database(farm)


def test_a_database_that_vanished_does_not_come_back_empty(farm: Repository) -> None:
    database = open_database(farm)
    database.path.unlink()
    with pytest.raises(SystemFault):
        list_tokens(database)
    assert not database.path.exists()


def test_a_writer_that_never_ends_is_told(
    farm: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(farm)
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.0)
    with database.writing(), pytest.raises(DatabaseBusyError):
        create_token(database, PUSH, "", None, NOW)


# Processes


def test_two_processes_write_at_once(farm: Repository) -> None:
    """From nothing: they also race for making the database."""
    processes = [writer(farm, 30) for _ in range(2)]
    ids = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(set(ids)) == 60
    assert {token.id for token in list_tokens(open_database(farm))} == set(ids)


@pytest.mark.parametrize("acknowledged", [1, 7, 23])
def test_a_writer_that_is_killed_loses_nothing_that_it_acknowledged(
    farm: Repository, acknowledged: int
) -> None:
    process = writer(farm, -1)
    assert process.stdout is not None
    ids = {process.stdout.readline().strip() for _ in range(acknowledged)}
    process.kill()
    ids |= set(process.stdout.read().split("\n")[:-1])
    process.stdout.close()
    assert process.wait() == -9
    tokens = list_tokens(open_database(farm))
    assert ids <= {token.id for token in tokens}
    assert len(tokens) <= len(ids) + 1
    assert all(len(token.grants) == 2 for token in tokens), "a token has all its grants"


# Backup


def test_a_backup_is_of_one_moment_while_others_write(farm: Repository, tmp_path: Path) -> None:
    process = writer(farm, -1)
    assert process.stdout is not None
    copies = []
    for number in range(5):
        before = process.stdout.readline().strip()
        copy = tmp_path / f"copy-{number}.sqlite"
        backup(Database(database_path(farm)), copy)
        copies.append((before, copy))
    process.kill()
    process.communicate()
    for before, copy in copies:
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        tokens = list_tokens(Database(copy))
        assert before in {token.id for token in tokens}
        assert all(len(token.grants) == 2 for token in tokens)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(copy.name for _, copy in copies),
        "farm",
    ], "nothing is left beside the copies"


def test_a_backup_replaces_an_older_one_and_its_log(farm: Repository, tmp_path: Path) -> None:
    """The log of a killed process would be replayed into the new copy."""
    database = open_database(farm)
    create_token(database, PUSH, "first", None, NOW)
    copy = tmp_path / "copy.sqlite"
    backup(database, copy)
    with Database(copy).writing() as connection:
        connection.execute("UPDATE tokens SET label = 'changed'")
        connection.execute("COMMIT")
        log = (tmp_path / "copy.sqlite-wal").read_bytes()
        connection.execute("BEGIN")
    (tmp_path / "copy.sqlite-wal").write_bytes(log)
    backup(database, copy)
    assert [token.label for token in list_tokens(Database(copy))] == ["first"]


def test_a_damaged_database_is_not_backed_up(farm: Repository, tmp_path: Path) -> None:
    path = database_path(farm)
    path.write_bytes(os.urandom(8192))
    with pytest.raises(DatabaseDamagedError):
        backup(Database(path), tmp_path / "copy.sqlite")
    assert list(tmp_path.glob("*copy*")) == []
