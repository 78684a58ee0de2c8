"""The farm's tokens as the API knows them."""

import msgspec

from hacktree.common.objects.names import BranchName
from hacktree.server.authorization import TooOftenError
from hacktree.server.database import Database
from hacktree.server.failurelimiter import FailureLimiter, PeerBlockedError
from hacktree.server.grants import Action
from hacktree.server.tokens import Token, admit


class GrantedToken(msgspec.Struct, frozen=True):
    """A token whose actions are named by text, as requests name them."""

    token: Token

    @property
    def id(self) -> str:
        """Its public name."""
        return self.token.id

    def allows(self, action: str, branch: BranchName) -> bool:
        """Whether a grant covers `action` on `branch`; what is no action is not allowed."""
        return action in list(Action) and self.token.allows(Action(action), branch)


class DatabaseAuthenticator(msgspec.Struct, frozen=True):
    """Looks tokens up in the server's database; peers that keep failing have to wait."""

    database: Database
    limiter: FailureLimiter = msgspec.field(default_factory=FailureLimiter)

    def authenticate(self, secret: str, now: int, *, peer: str) -> GrantedToken:
        """The token with this secret; raises `TokenRefusedError` and `TooOftenError`."""
        try:
            return GrantedToken(admit(self.database, self.limiter, secret, now, peer=peer))
        except PeerBlockedError as error:
            raise TooOftenError(error.message, error.retry_after) from error
