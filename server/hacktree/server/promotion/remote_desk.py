"""The desk of a farm that is reached over HTTP, with a token that allows verdicts only."""

import msgspec

from hacktree.server.promotion.desk import Assignment, Idle, Report
from hacktree.server.promotion.farm_client import FarmClient, sensible
from hacktree.server.promotion.messages import (
    ClaimAnswer,
    ClaimRequest,
    VerdictAnswer,
    decode,
    encode,
    verdict_request,
)
from hacktree.server.promotion.verdicts import Verdict


class RemoteDesk(msgspec.Struct, frozen=True):
    """Hands out what the farm does."""

    farm: FarmClient

    def claim(self, suite: str, holder: str) -> Assignment | Idle:
        """Lease the newest build that is untested and free."""
        answer = self.farm.ask("POST", "qa/claim", encode(ClaimRequest(suite, holder)))
        return sensible(lambda: decode(ClaimAnswer, answer).claimed())

    def renew(self, lease: str) -> None:
        """Say that this runner is alive; raises `LeaseLostError`."""
        self.farm.ask("POST", f"qa/leases/{lease}/renew")

    def report(self, lease: str, report: Report) -> Verdict:
        """Record the verdict; tried again while the farm is unreachable, since it cost a test."""
        body = encode(verdict_request(report))
        answer = self.farm.insist("POST", f"qa/leases/{lease}/verdict", body)
        return sensible(lambda: decode(VerdictAnswer, answer).verdict())

    def give_up(self, lease: str) -> None:
        """Let another take the build."""
        self.farm.ask("DELETE", f"qa/leases/{lease}")
