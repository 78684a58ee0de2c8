"""Tokens: what a peer shows to be allowed something. Times are whole seconds since 1970.

A secret is `ht_<id>_<random>`: an id of 8 hexadecimal digits, by which people and logs name the
token, and 43 characters that `secrets` makes of 32 random bytes. The database holds the sha256 of
the random part alone. That is enough: slow, salted hashes protect what people choose and attackers
can guess; nobody guesses 256 random bits, however fast the hash.
"""

import hashlib
import hmac
import logging
import re
import secrets
import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.common.errors import PeerError, UserError
from hacktree.common.objects.names import BranchName
from hacktree.server.database import Database, DatabaseBusyError, DatabaseDamagedError
from hacktree.server.failurelimiter import FailureLimiter
from hacktree.server.grants import Action, Grant, GrantInvalidError, parse_grant

MAX_GRANTS: Final = 64
MAX_LABEL_LENGTH: Final = 200
MAX_LIFETIME: Final = 100 * 366 * 86400
"""Seconds from making to expiry; what is to live longer never expires."""
USE_RESOLUTION: Final = 60
"""Seconds: the last use is recorded this often at most, so that reading does not become writing."""

_ID: Final = re.compile(r"[0-9a-f]{8}")
_SECRET: Final = re.compile(r"ht_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NOBODY: Final = secrets.token_bytes(32)
"""Compared with where there is no token: no random part has a digest that is known to be this."""

_LOG: Final = logging.getLogger("hacktree.server.tokens")


class TokenInvalidError(UserError):
    """A token can't be like this: its id, label, grants or times."""


class TokenMissingError(UserError):
    """There is no token with this id."""


class TokenRefusedError(PeerError):
    """A peer's token is unknown, wrong, expired or revoked. The message does not tell which."""

    def __init__(self) -> None:
        super().__init__(
            "the token is not valid", hint="Ask whoever runs the farm for a new token."
        )


class Standing(StrEnum):
    """Whether a token is worth anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Token(msgspec.Struct, frozen=True):
    """A token as it is known, without its secret. Raises `TokenInvalidError`.

    `expires`, `revoked` and `last_used` are None for never; `last_used` may be late by
    `USE_RESOLUTION`.
    """

    id: str
    label: str
    grants: tuple[Grant, ...]
    created: int
    expires: int | None = None
    revoked: int | None = None
    last_used: int | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise TokenInvalidError(f"not a token's id: {self.id!r}", hint="8 hexadecimal digits.")
        if len(self.label) > MAX_LABEL_LENGTH or not self.label.isprintable():
            raise TokenInvalidError(
                f"a label is one line of at most {MAX_LABEL_LENGTH} printable characters"
            )
        if not 1 <= len(self.grants) <= MAX_GRANTS:
            raise TokenInvalidError(f"a token has 1 to {MAX_GRANTS} grants")
        if list(self.grants) != sorted(set(self.grants)):
            raise TokenInvalidError("a token's grants are not sorted, or one is there twice")
        if self.expires is not None and self.expires <= self.created:
            raise TokenInvalidError("a token can't expire before it is made")
        if self.expires is not None and self.expires - self.created > MAX_LIFETIME:
            raise TokenInvalidError("a token expires within a hundred years, or never")

    def allows(self, action: Action, branch: BranchName) -> bool:
        """Whether a grant covers `action` on `branch`; no action implies another, admin neither."""
        return any(grant.allows(action, branch) for grant in self.grants)

    def standing(self, now: int) -> Standing:
        """What the token is worth at `now`; revoked comes before expired."""
        if self.revoked is not None:
            return Standing.REVOKED
        expired = self.expires is not None and now >= self.expires
        return Standing.EXPIRED if expired else Standing.ACTIVE


def create_token(
    database: Database, grants: Sequence[Grant], label: str, expires: int | None, now: int
) -> tuple[Token, str]:
    """A new token and its secret, which nobody can learn again; `expires` in seconds from `now`.

    Grants that are given twice count once. Raises `TokenInvalidError` and the database's errors.
    """
    ends = None if expires is None else now + expires
    random = secrets.token_urlsafe(32)
    with database.writing() as connection:
        token = Token(_free_id(connection), label, tuple(sorted(set(grants))), now, ends)
        connection.execute(
            "INSERT INTO tokens (id, digest, label, created, expires) VALUES (?, ?, ?, ?, ?)",
            (token.id, _digest(random), label, now, ends),
        )
        connection.executemany(
            "INSERT INTO token_grants (token, action, pattern) VALUES (?, ?, ?)",
            [(token.id, grant.action.value, grant.pattern) for grant in token.grants],
        )
    return token, f"ht_{token.id}_{random}"


def authenticate(database: Database, secret: str, now: int, *, peer: str = "-") -> Token:
    """The active token whose secret this is; `peer` is the address for the log.

    Raises `TokenRefusedError`, and logs why, with the token's id and never the secret. An id that
    is unknown takes the same steps as one that is known.
    """
    try:
        return _admit_active(database, secret, now)
    except _UnfitError as error:
        raise _refuse(peer, error.name, error.why) from None


class _UnfitError(Exception):
    """Why a secret is refused, for the log: `name` of the token, and `why`."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name, self.why = name, why


def _admit_active(database: Database, secret: str, now: int) -> Token:
    match = _SECRET.fullmatch(secret)
    if match is None:
        raise _UnfitError("of unknown form", "malformed")
    with database.reading() as connection:
        row = connection.execute("SELECT digest FROM tokens WHERE id = ?", (match[1],)).fetchone()
        # Only who has the secret comes past this line, so nothing after it can tell anybody more.
        if not hmac.compare_digest(_digest(match[2]), _NOBODY if row is None else row[0]):
            raise _UnfitError(match[1], "unknown id" if row is None else "wrong secret")
        (token,) = _load_tokens(connection, match[1])
    if token.standing(now) is not Standing.ACTIVE:
        raise _UnfitError(token.id, token.standing(now).value)
    return _record_use(database, token, now)


def admit(
    database: Database, limiter: FailureLimiter, secret: str, now: int, *, peer: str
) -> Token:
    """As `authenticate`, for a server: failures of an address that failed too often are cut short.

    A valid token is let in whatever its neighbours behind one address do. While the address is
    blocked a failure is not logged and makes the block no longer: it costs a look at the database.
    Raises `PeerBlockedError`, which says for how long, or `TokenRefusedError`.
    """
    try:
        return _admit_active(database, secret, now)
    except _UnfitError as error:
        limiter.require_open(peer, now)
        limiter.record_failure(peer, now)
        raise _refuse(peer, error.name, error.why) from None


def list_tokens(database: Database) -> list[Token]:
    """Every token, oldest first, also those that are worth nothing any more."""
    with database.reading() as connection:
        return _load_tokens(connection, None)


def revoke_token(database: Database, token_id: str, now: int) -> Token:
    """Make a token worthless from now on; a revoked one stays as it is.

    Raises `TokenMissingError`.
    """
    with database.writing() as connection:
        connection.execute(
            "UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL", (now, token_id)
        )
        found = _load_tokens(connection, token_id)
    if not found:
        raise TokenMissingError(
            f"there is no token {token_id!r}", hint="`hacktree token list` shows their ids."
        )
    return found[0]


def _digest(random: str) -> bytes:
    return hashlib.sha256(random.encode("ascii")).digest()


def _free_id(connection: sqlite3.Connection) -> str:
    """An id that no token has; with a million tokens the first is free in all but 1 of 4,000."""
    while True:
        token_id = secrets.token_hex(4)
        taken = connection.execute("SELECT 1 FROM tokens WHERE id = ?", (token_id,)).fetchone()
        if taken is None:
            return token_id


def _load_tokens(connection: sqlite3.Connection, token_id: str | None) -> list[Token]:
    """The token with this id, if there is one; all of them for None."""
    rows = connection.execute(
        "SELECT id, label, created, expires, revoked, last_used, action, pattern "
        "FROM tokens JOIN token_grants ON token = id "
        "WHERE ? IS NULL OR id = ? ORDER BY created, id, action, pattern",
        (token_id, token_id),
    )
    try:
        return [
            Token(
                fields[0],
                fields[1],
                tuple(sorted(parse_grant(f"{row[6]}:{row[7]}") for row in group)),
                *fields[2:],
            )
            for fields, group in groupby(rows, key=itemgetter(slice(6)))
        ]
    except (GrantInvalidError, TokenInvalidError) as error:
        raise DatabaseDamagedError(f"a token in the database can't be: {error}") from error


def _record_use(database: Database, token: Token, now: int) -> Token:
    """Note the use if the last one noted is a while ago, or in the future: clocks are set back."""
    if token.last_used is not None and abs(now - token.last_used) < USE_RESOLUTION:
        return token
    try:
        with database.writing() as connection:
            connection.execute("UPDATE tokens SET last_used = ? WHERE id = ?", (now, token.id))
    except DatabaseBusyError as error:
        # A valid token is not refused because a note of it would have to wait.
        _LOG.warning("the use of token %s is not recorded: %s", token.id, error)
        return token
    return replace(token, last_used=now)


def _refuse(peer: str, name: str, why: str) -> TokenRefusedError:
    _LOG.warning("token %s from %s refused: %s", name, peer, why)
    return TokenRefusedError()
