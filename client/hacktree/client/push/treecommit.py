"""Committing a directory in order to push it, where no repository is named.

The commit is made in an archive in the user's cache that belongs to one branch of one server. It is
kept: the next build of the branch then finds its parent there. Otherwise the parent is pulled once.
"""

import hashlib
from pathlib import Path

from hacktree.client.connect import open_source
from hacktree.client.heads import HeadReader, UnsignedHeads
from hacktree.client.pull import PullReport, PullRequest, decoders, pull
from hacktree.client.remote import Remote, list_remotes
from hacktree.client.retry import Patience
from hacktree.client.source import NotServedError, Source
from hacktree.client.target import Wanted
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.refs import hold_refs, move_ref, read_ref
from hacktree.common.repository.repository import Repository, open_repository

_CONNECTIONS = 12


def cached_archive(cache: Path, url: str, branch: BranchName) -> Repository:
    """The archive for what is pushed to this branch of this server, made if it isn't there."""
    name = hashlib.sha256(f"{url.rstrip('/')}\0{branch}".encode()).hexdigest()[:16]
    path = cache / "hacktree" / "push" / name
    # An archive is for everybody to read; this one is the user's own.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    init_repository(path, Mode.ARCHIVE)
    return open_repository(path)


def knows_root(repository: Repository, remote: Remote) -> bool:
    """Whether the server's heads are verified: a root to begin with was given once."""
    from hacktree.client.signed_heads import trust_of

    return trust_of(repository, remote).has_anchor


def inherit_root(repository: Repository, remote: Remote, other: Repository) -> None:
    """Begin with the root of a remote that another repository has for the same server, if any."""
    from hacktree.client.signed_heads import keep_anchor, trust_of

    for known in list_remotes(other):
        trust = trust_of(other, known)
        if known.url.rstrip("/") == remote.url.rstrip("/") and trust.has_anchor:
            keep_anchor(repository, remote.name, trust.read_anchor())
            return


async def learn_root(
    repository: Repository, remote: Remote, patience: Patience, fingerprint: str
) -> None:
    """Begin with the server's first root, which must have this fingerprint; raises `TrustError`."""
    from hacktree.client.signed_heads import fetch_anchor, keep_anchor, trust_of

    trust = trust_of(repository, remote)
    if trust.has_anchor:
        trust.check_anchor(fingerprint)
        return
    async with open_source(remote, patience, 1) as source:
        keep_anchor(repository, remote.name, await fetch_anchor(source, fingerprint))


async def follow_server(
    repository: Repository, remote: Remote, branch: BranchName, patience: Patience
) -> ObjectId | None:
    """Bring the server's head of `branch` here for a commit to follow; None if there is none.

    It is the signed one where `knows_root`, else what the server says. Raises `PeerError`.
    """
    # python-tuf takes longer to import than --help may.
    from hacktree.common.trust.verifying import UnsignedYetError

    async with open_source(remote, patience, _CONNECTIONS) as source:
        heads = _heads(repository, remote, source)
        try:
            head = await heads.read_head(branch)
        except (NotServedError, UnsignedYetError):
            return None
        if read_ref(repository, branch) != head:
            request = PullRequest(remote.name, Wanted.parse(branch), _CONNECTIONS)
            with decoders(repository) as pool:
                result = await pull(repository, request, heads, [source], PullReport(), pool)
            head = result.target.id
            with hold_refs(repository):
                move_ref(repository, branch, head, expected=read_ref(repository, branch))
    return head


def _heads(repository: Repository, remote: Remote, source: Source) -> HeadReader:
    from hacktree.client.signed_heads import SignedHeads

    if knows_root(repository, remote):
        return SignedHeads(repository, remote, source)
    return UnsignedHeads(source)
