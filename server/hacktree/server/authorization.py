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
    """Knows the tokens. Called in the event loop: it must be quick and must not block."""

    def authenticate(self, secret: str, now: int) -> Token:
        """The token with this secret; `now` in seconds since 1970.

        Raises `HacktreeError` for one that is unknown, expired or revoked.
        """


class ForbiddenError(HacktreeError):
    """The token does not allow it."""
