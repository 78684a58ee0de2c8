"""Who may do what: the seam between the API and whatever keeps the tokens."""

from typing import Protocol

from hacktree.common.errors import HacktreeError
from hacktree.common.objects.names import BranchName


class Token(Protocol):
    """An authenticated token."""

    @property
    def id(self) -> str:
        """Its public name: in logs, and whose quota is used. Not the secret."""

    def allows(self, action: str, branch: BranchName) -> bool:
        """Whether the token's scope covers `action`, such as `push`, on the branch."""


class Authenticator(Protocol):
    """Knows the tokens. Called in threads, once for each request: it may block."""

    def authenticate(self, secret: str, now: int, *, peer: str) -> Token:
        """The token with this secret; `now` in seconds since 1970, `peer` the client's address.

        Raises `HacktreeError` for one that is unknown, expired or revoked, and `TooOftenError`.
        """


class ForbiddenError(HacktreeError):
    """The token does not allow it."""


class TooOftenError(HacktreeError):
    """The peer failed too often to be listened to; it may come back after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
