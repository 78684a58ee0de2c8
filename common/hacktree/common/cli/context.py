"""What the global options mean."""

import argparse
import os
from pathlib import Path

from hacktree.common.repository.repository import Repository, open_repository


def repository_path(args: argparse.Namespace) -> Path:
    """`--repo`, else `$HACKTREE_REPO`, else the repository of the sysroot."""
    chosen = args.repo or os.environ.get("HACKTREE_REPO")
    return Path(chosen) if chosen else Path(args.sysroot) / ".ht"


def repository_from(args: argparse.Namespace) -> Repository:
    """Open the repository that the command is about."""
    return open_repository(repository_path(args))
