"""What every backup must be."""

from pathlib import Path

from hacktree.common.objects.history import MAX_PAGE_SIZE, decode_page, verified_chain
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.server.database import database_path, open_database


def assert_whole(path: Path) -> Repository:
    """The copy opens; every object, commit and history in it is intact, and so is the database."""
    copy = open_repository(path)
    report = fsck(copy, jobs=1)
    assert report.intact, report
    assert report.foreign == []
    for branch, head in list_refs(copy).items():
        tail = (path / "branches" / branch / "history/tail").read_bytes()
        page = decode_page(decompress_bounded(tail, MAX_PAGE_SIZE))
        found = [commit_id for commit_id, _, _ in verified_chain(head, page.commits)]
        assert found, f"the tail of {branch} is behind its ref"
    if database_path(copy).exists():
        open_database(copy)
    return copy
