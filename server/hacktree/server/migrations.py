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

MIGRATIONS: Final[tuple[Migration, ...]] = (_TOKENS,)
"""Every step, oldest first; their number is the version that this program writes."""
