"""Committing a directory in order to push it, where no repository is named.

The commit is made in an archive in the user's cache that belongs to one branch of one server. It is
kept: the next build of the branch then finds its parent there. Otherwise the parent is pulled once.
"""

import hashlib
from pathlib import Path

from hacktree.client.connect import open_source
from hacktree.client.heads import UnsignedHeads
from hacktree.client.pull import PullReport, PullRequest, decoders, pull
from hacktree.client.remote import Remote
from hacktree.client.retry import Patience
from hacktree.client.source import NotServedError
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


async def follow_server(
    repository: Repository, remote: Remote, branch: BranchName, patience: Patience
) -> ObjectId | None:
    """Bring the server's head of `branch` here for a commit to follow; None if there is none.

    Raises `PeerError`.
    """
    async with open_source(remote, patience, _CONNECTIONS) as source:
        heads = UnsignedHeads(source)
        try:
            head = await heads.read_head(branch)
        except NotServedError:
            return None
        if read_ref(repository, branch) != head:
            request = PullRequest(remote.name, Wanted.parse(branch), _CONNECTIONS)
            with decoders() as pool:
                result = await pull(repository, request, heads, [source], PullReport(), pool)
            head = result.target.id
            with hold_refs(repository):
                move_ref(repository, branch, head, expected=read_ref(repository, branch))
    return head
