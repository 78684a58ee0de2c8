"""Which two builds a search among packages is about: named ones, brought if they are not here; or
those that the bisection over builds has found.
"""

from collections.abc import Sequence

import msgspec

from hacktree.client.bisect.core.model import Candidate
from hacktree.client.bisect.core.state import Found, current_state
from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build, pin_of
from hacktree.client.bisect.farm.lines import branch_of_names, parse_name
from hacktree.client.bisect.farm.reading import read_ends
from hacktree.client.bisect.store import find_bisection
from hacktree.client.pull import PullReport
from hacktree.client.remote import choose_remote, load_remote
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.revision import RevisionError, resolve


class NoEndsError(UserError):
    """No builds are named, and no bisection has found any."""


class Pair(msgspec.Struct, frozen=True):
    """A good build and a bad one; `builds` if they may have to be brought from `remote`."""

    good: ObjectId
    bad: ObjectId
    remote: str = ""
    builds: Sequence[Candidate] = ()

    def bring(self, sysroot: Sysroot, report: PullReport) -> None:
        """Have both here; needs no network if they are. The caller has pinned both.

        Raises what `bring_build` raises.
        """
        if not self.builds:
            return
        remote = load_remote(sysroot.repository, self.remote)
        for build in self.builds:
            commit = parse_object_id(build.commit)
            pin = pin_of(sysroot.repository, commit)
            held = pin.exists()
            request = BuildRequest(parse_branch_name(build.branch), commit)
            bring_build(sysroot.repository, remote, request, report)
            if not held:
                # The caller's own pin keeps it; a bisection's stays.
                pin.unlink(missing_ok=True)


def found_ends(sysroot: Sysroot) -> Pair:
    """The neighbours that the bisection over builds has found; raises `NoEndsError`."""
    saved = find_bisection(sysroot)
    outcome = None if saved is None else current_state(saved.session).outcome
    if saved is None or not isinstance(outcome, Found):
        raise NoEndsError(
            "name a build that works and one that doesn't: no bisection has found them",
            hint="hacktree bisect packages GOOD BAD --run CMD",
        )
    builds = (outcome.before, outcome.first)
    good, bad = (parse_object_id(build.commit) for build in builds)
    if saved.session.options.find_fix:
        good, bad = bad, good
    return Pair(good, bad, saved.session.remote, builds)


def named_ends(sysroot: Sysroot, good: str, bad: str) -> Pair:
    """The builds of these names: of this machine as `deploy` takes them, `current` and `previous`;
    or, where one is not here, of the remote as `bisect start` takes them, the good one first.

    Raises `RevisionError`, and what reading the remote's history raises.
    """
    try:
        return Pair(_local(sysroot, good), _local(sysroot, bad))
    except RevisionError:
        branch = branch_of_names([good, bad], sysroot)
        if branch is None:
            raise
    remote = choose_remote(sysroot.repository, sysroot.config.remote or None)
    old, new = parse_name(good, branch, sysroot), parse_name(bad, branch, sysroot)
    line = read_ends(sysroot.repository, remote, branch, old, new).value.builds
    ends = (line[0], line[-1])
    first, last = (parse_object_id(end.commit) for end in ends)
    return Pair(first, last, remote.name, ends)


def _local(sysroot: Sysroot, text: str) -> ObjectId:
    if text in ("current", "previous"):
        return read_roots(sysroot).find(text).commit_id
    return resolve(sysroot.repository, text)
