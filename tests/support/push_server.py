"""A server with the API and three tokens, as a program: push_server.py REPOSITORY DESCRIPTOR.

DESCRIPTOR is a listening socket that it inherits: whoever starts it can kill it and start another
one, and no connection is refused meanwhile. It prints its URL when it answers.
"""

import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hacktree.common.errors import UserError
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.repository import open_repository
from hacktree.server.api import make_api
from hacktree.server.authorization import Token, TooOftenError
from hacktree.server.serving import ACCESS_LOG, serve

CI_SECRET = "secret-of-ci"
OTHER_SECRET = "secret-of-other"
FASTQA_SECRET = "secret-of-fastqa"
BLOCKED_SECRET = "secret-that-came-too-often"


@dataclass(frozen=True, slots=True)
class FakeToken:
    """A token for every branch, or for one."""

    id: str
    branch: str | None = None

    def allows(self, action: str, branch: BranchName) -> bool:
        return action == "push" and self.branch in (None, branch)


class FakeAuthenticator:
    """Knows the three tokens."""

    tokens: ClassVar = {
        CI_SECRET: FakeToken("ci"),
        OTHER_SECRET: FakeToken("other"),
        FASTQA_SECRET: FakeToken("fastqa", "fastqa"),
    }

    def authenticate(self, secret: str, now: int, *, peer: str) -> Token:
        assert now > 0
        if secret == BLOCKED_SECRET:
            raise TooOftenError(f"too many failures from {peer}", 7)
        if secret not in self.tokens:
            raise UserError("the token is not known")
        return self.tokens[secret]


def main() -> None:
    """Serve until told to stop."""
    repository, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ACCESS_LOG.setLevel(logging.INFO)

    def announce(urls: Sequence[str]) -> None:
        sys.stdout.write(f"{urls[0]}\n")
        sys.stdout.flush()

    api = make_api(open_repository(repository), FakeAuthenticator())
    serve(repository, [socket.socket(fileno=descriptor)], None, announce, api)


if __name__ == "__main__":
    main()
