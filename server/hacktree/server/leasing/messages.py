"""What bisections and the farm say to each other about leases. docs/format.md, "Leases"."""

from typing import Annotated

import msgspec
from msgspec import Meta

from hacktree.common.objects.ids import parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.server.leasing.leases import Range
from hacktree.server.leasing.records import RangeLease
from hacktree.server.promotion.messages import SuiteName

CommitId = Annotated[str, Meta(pattern="^[0-9a-f]{64}$(?!\\n)")]
# In JSON Schema `$` is the end alone, in Python also before a newline there; \Z only Python knows.
SessionId = Annotated[str, Meta(pattern="^[0-9a-f]{8,64}$(?!\\n)")]


class LeaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep the builds of a branch from `low` to `high`; `session`: the asker's own name for it."""

    session: SessionId
    branch: SuiteName
    low: CommitId
    high: CommitId

    def range(self) -> Range:
        """As `lease_range` takes it; raises `NameInvalidError`."""
        return Range(
            self.session,
            parse_branch_name(self.branch),
            parse_object_id(self.low),
            parse_object_id(self.high),
        )


class LeaseAnswer(msgspec.Struct, frozen=True):
    """A lease: so many `builds` are kept until `expires`, `seconds` from now."""

    lease: str
    token: str
    session: str
    branch: str
    low: str
    high: str
    builds: int
    created: int
    expires: int
    seconds: int


class LeasesAnswer(msgspec.Struct, frozen=True):
    """The leases that last, oldest first."""

    leases: list[LeaseAnswer]


def lease_answer(lease: RangeLease, now: int) -> LeaseAnswer:
    """A lease as it is told; `low` and `high` are the oldest and the newest build that are kept."""
    return LeaseAnswer(
        lease.id,
        lease.token,
        lease.session,
        lease.branch,
        lease.builds[0].hex(),
        lease.builds[-1].hex(),
        len(lease.builds),
        lease.created,
        lease.expires,
        max(lease.expires - now, 0),
    )
