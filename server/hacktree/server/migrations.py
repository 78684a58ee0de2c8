"""The schema of the server's database, as the steps that made it.

Step n leads from version n - 1 to version n (`PRAGMA user_version`) and runs in one transaction. A
step that was released is never edited: a change is another step at the end. No STRICT tables and no
RETURNING: the oldest supported systems have SQLite 3.34.
"""

from typing import Final

Migration = tuple[str, ...]
"""SQL statements, run in order in one transaction."""

APPLICATION_ID: Final = 0x48745372
"""`PRAGMA application_id`: "HtSr", so that another program's database is not taken for ours."""

_TOKENS: Final[Migration] = (
    """
    CREATE TABLE tokens (
        id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 8),
        digest BLOB NOT NULL CHECK (typeof(digest) = 'blob' AND length(digest) = 32),
        label TEXT NOT NULL,
        created INTEGER NOT NULL CHECK (typeof(created) = 'integer'),
        expires INTEGER CHECK (expires > created),
        revoked INTEGER,
        last_used INTEGER
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE token_grants (
        token TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
        action TEXT NOT NULL,
        pattern TEXT NOT NULL,
        PRIMARY KEY (token, action, pattern)
    ) WITHOUT ROWID
    """,
)

_JOBS: Final[Migration] = (
    """
    CREATE TABLE jobs (
        id INTEGER NOT NULL PRIMARY KEY,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed')),
        attempts INTEGER NOT NULL DEFAULT 0,
        due INTEGER NOT NULL,
        created INTEGER NOT NULL,
        started INTEGER,
        ended INTEGER,
        error TEXT NOT NULL DEFAULT '',
        again INTEGER NOT NULL DEFAULT 0
    )
    """,
    # One at a time of each: what is asked for again is the same job.
    """
    CREATE UNIQUE INDEX jobs_open ON jobs (kind, subject) WHERE state IN ('waiting', 'running')
    """,
)

_PROMOTION: Final[Migration] = (
    """
    CREATE TABLE verdicts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        build BLOB NOT NULL CHECK (typeof(build) = 'blob' AND length(build) = 32),
        suite TEXT NOT NULL,
        outcome TEXT NOT NULL CHECK (outcome IN ('pass', 'fail', 'inconclusive')),
        reason TEXT NOT NULL,
        duration REAL NOT NULL CHECK (duration >= 0),
        machine TEXT NOT NULL,
        log TEXT NOT NULL,
        token TEXT NOT NULL,
        time INTEGER NOT NULL CHECK (typeof(time) = 'integer'),
        lease TEXT NOT NULL UNIQUE
    )
    """,
    "CREATE INDEX verdicts_by_suite ON verdicts (suite, build)",
    """
    CREATE TRIGGER verdicts_are_kept BEFORE UPDATE ON verdicts
    BEGIN SELECT RAISE(ABORT, 'a verdict is immutable'); END
    """,
    """
    CREATE TRIGGER verdicts_stay BEFORE DELETE ON verdicts
    BEGIN SELECT RAISE(ABORT, 'a verdict is immutable'); END
    """,
    """
    CREATE TABLE leases (
        build BLOB NOT NULL CHECK (typeof(build) = 'blob' AND length(build) = 32),
        suite TEXT NOT NULL,
        lease TEXT NOT NULL UNIQUE,
        holder TEXT NOT NULL,
        token TEXT NOT NULL,
        expires INTEGER NOT NULL CHECK (typeof(expires) = 'integer'),
        PRIMARY KEY (suite, build)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE holds (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        branch TEXT,
        build BLOB CHECK (build IS NULL OR typeof(build) = 'blob' AND length(build) = 32),
        reason TEXT NOT NULL,
        who TEXT NOT NULL,
        time INTEGER NOT NULL CHECK (typeof(time) = 'integer'),
        released INTEGER,
        released_by TEXT,
        release_reason TEXT,
        CHECK ((branch IS NULL) <> (build IS NULL))
    )
    """,
)

_RETESTS: Final[Migration] = (
    """
    CREATE TABLE retests (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        build BLOB NOT NULL CHECK (typeof(build) = 'blob' AND length(build) = 32),
        suite TEXT NOT NULL,
        after INTEGER NOT NULL,
        reason TEXT NOT NULL,
        who TEXT NOT NULL,
        time INTEGER NOT NULL CHECK (typeof(time) = 'integer')
    )
    """,
    "CREATE INDEX retests_by_suite ON retests (suite, build)",
)

_RANGE_LEASES: Final[Migration] = (
    """
    CREATE TABLE range_leases (
        id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 32),
        token TEXT NOT NULL,
        session TEXT NOT NULL,
        branch TEXT NOT NULL,
        builds BLOB NOT NULL CHECK (
            typeof(builds) = 'blob' AND length(builds) > 0 AND length(builds) % 32 = 0
        ),
        created INTEGER NOT NULL CHECK (typeof(created) = 'integer'),
        expires INTEGER NOT NULL CHECK (typeof(expires) = 'integer' AND expires > created)
    )
    """,
    "CREATE INDEX range_leases_by_token ON range_leases (token)",
)

MIGRATIONS: Final[tuple[Migration, ...]] = (
    _TOKENS,
    _JOBS,
    _PROMOTION,
    _RETESTS,
    _RANGE_LEASES,
)
"""Every step, oldest first; their number is the version that this program writes."""
