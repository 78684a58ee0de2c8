"""What a server does with a signer's promotion, as a program: accept_promotion.py FARM REQUEST NOW.

REQUEST is a file with the body that the signer sends.
"""

import sys
from pathlib import Path

from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import open_repository
from hacktree.server.database import open_database
from hacktree.server.promotion.accepting import SignedPromotion, accept_promotion
from hacktree.server.promotion.messages import decode
from hacktree.server.promotion.promoting import Farm
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.signing_messages import PromotionRequest


def main() -> None:
    """Publish it."""
    repository = open_repository(Path(sys.argv[1]))
    message = decode(PromotionRequest, Path(sys.argv[2]).read_bytes())
    branch = parse_branch_name(message.branch)
    sent = SignedPromotion(branch, message.commit, message.role, message.by_hand)
    farm = Farm(repository, open_database(repository))
    accept_promotion(farm, read_suites(repository).get(branch), sent, int(sys.argv[3]))


if __name__ == "__main__":
    main()
