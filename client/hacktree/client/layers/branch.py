"""The versions of a layer: commits of a local branch, made from what its source holds.

The branch is `local/layers/<name>`. A layer's files belong to root unless it keeps the owners of
its source: who builds it is seldom who may own what is in /usr.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from hacktree.client.layers.capture import Runner, captured
from hacktree.client.layers.definition import (
    LayerDefinition,
    SourceKind,
    layer_branch,
)
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import Entry, SymlinkEntry
from hacktree.common.repository.committing import CommitRequest, CommitResult, commit_source
from hacktree.common.repository.directory import ingest_directory
from hacktree.common.repository.ingest import IngestOptions, IngestReport
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.statcache import forget_stat_cache
from hacktree.common.repository.tar import ingest_tar
from hacktree.common.repository.transaction import Transaction
from hacktree.common.repository.treebuilder import BuildDirectory


class LayerEmptyError(UserError):
    """The source of a layer holds nothing."""


def layer_head(repository: Repository, name: str) -> ObjectId | None:
    """The newest version of a layer, or None."""
    return read_ref(repository, layer_branch(name))


def layer_versions(repository: Repository, name: str) -> list[tuple[ObjectId, Commit]]:
    """The versions that are here, the newest first."""
    versions = []
    commit_id = layer_head(repository, name)
    while commit_id is not None and repository.has_meta(commit_id):
        commit = repository.load_commit(commit_id)
        versions.append((commit_id, commit))
        commit_id = commit.parents[0] if commit.parents else None
    return versions


def commit_layer(
    repository: Repository, name: str, layer: LayerDefinition, time: int, run: Runner
) -> CommitResult:
    """Read the layer's source, a command after running it, and commit what is new in it.

    `run` runs a command. Raises `LayerEmptyError`, `CommandFailedError`, `OSError`.
    """
    with ExitStack() as stack:
        source = Path(layer.path)
        if layer.source is SourceKind.COMMAND:
            source = stack.enter_context(captured(layer, run))
            stack.callback(forget_stat_cache, repository, source)
        request = CommitRequest(
            branch=layer_branch(name),
            time=time,
            subject=f"layer {name}",
            allow_renumbering=True,
            only_if_changed=True,
        )
        return commit_source(repository, _ingest(layer, source), request)


def _ingest(
    layer: LayerDefinition, source: Path
) -> Callable[
    [Transaction, Callable[[bytes], Entry | None] | None], tuple[BuildDirectory, IngestReport]
]:
    owner = None if layer.keep_owners else 0
    options = IngestOptions(owner_uid=owner, owner_gid=owner)

    def ingest(
        transaction: Transaction, base: Callable[[bytes], Entry | None] | None
    ) -> tuple[BuildDirectory, IngestReport]:
        if layer.source is SourceKind.TAR:
            with open(source, "rb") as stream:
                read = ingest_tar(transaction, stream, options)
        else:
            read = ingest_directory(transaction, source, options)
        directory, _ = read
        if not directory.children:
            raise LayerEmptyError(f"{source} holds nothing", hint=_EMPTY_HINTS[layer.source])
        if layer.source is SourceKind.COMMAND:
            _refuse_links_back(directory, os.fsencode(source))
        return read

    return ingest


_EMPTY_HINTS = {
    SourceKind.DIRECTORY: "Install into it first: make install DESTDIR=DIR.",
    SourceKind.TAR: "Make the archive of an installed tree: tar -C DIR -cf FILE .",
    SourceKind.COMMAND: "The command must install below the directory in $DESTDIR.",
}


def _refuse_links_back(directory: BuildDirectory, destination: bytes) -> None:
    """Refuse links into the directory that a command installed to: it is gone afterwards."""
    for child in directory.children.values():
        if isinstance(child, BuildDirectory):
            _refuse_links_back(child, destination)
        elif isinstance(child, SymlinkEntry) and child.target.startswith(destination):
            raise UserError(
                f"the link {os.fsdecode(child.name)} points to {os.fsdecode(child.target)}",
                hint="Its install rule puts $DESTDIR into a link's target: make it relative.",
            )
