"""Naming commits: `fastqa`, `fastqa~3`, `origin:fastqa`, `3f9c21ab`."""

import re
from typing import Final

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository

MIN_PREFIX: Final = 4
"""Hexadecimal digits that an abbreviated id has at least."""

_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},64}}")
_STEPS = re.compile(r"(.+?)(?:~(\d+)|(\^+))?")


class RevisionError(UserError):
    """No commit has this name, or more than one."""


def split_steps(text: str) -> tuple[str, int]:
    """`fastqa~3` → ("fastqa", 3); `x^^` → ("x", 2)."""
    match = _STEPS.fullmatch(text)
    if match is None:
        raise RevisionError(f"not a revision: {text!r}")
    if match[2]:
        return match[1], int(match[2])
    return match[1], len(match[3] or "")


def resolve(repository: Repository, text: str) -> ObjectId:
    """The commit that `text` names in this repository; raises `RevisionError`.

    A branch (also of a remote, when only one remote has it), `remote:branch`, or an id or its
    prefix; followed by `~N` or `^` for earlier builds.
    """
    base, steps = split_steps(text)
    commit = _resolve_base(repository, base)
    for _ in range(steps):
        parents = repository.load_commit(commit).parents
        if not parents or not repository.has_meta(parents[0]):
            raise RevisionError(
                f"{text} lies before the oldest build of {base} that is here",
                hint=f"See `hacktree log {base}`.",
            )
        commit = parents[0]
    return commit


def _resolve_base(repository: Repository, base: str) -> ObjectId:
    refs = list_refs(repository)
    if base in refs:
        return refs[base]
    remote, colon, branch = base.partition(":")
    if colon and f"remotes/{remote}/{branch}" in refs:
        return refs[f"remotes/{remote}/{branch}"]
    named = {name: head for name, head in refs.items() if _is_remote_branch(name, base)}
    if len(set(named.values())) == 1:
        return next(iter(named.values()))
    if named:
        raise RevisionError(
            f"{base} is ambiguous: {', '.join(named)}",
            hint="Name the remote: REMOTE:BRANCH.",
        )
    if _PREFIX.fullmatch(base):
        return _resolve_prefix(repository, base)
    raise RevisionError(
        f"there is no branch or commit {base!r}",
        hint="`hacktree refs` lists the branches.",
    )


def _is_remote_branch(name: str, branch: str) -> bool:
    parts = name.split("/", 2)
    return (
        parts[0] == "remotes"
        and len(parts) == 3
        and (parts[2] == branch or parts[2].endswith("/" + branch))
    )


def _resolve_prefix(repository: Repository, prefix: str) -> ObjectId:
    directory = repository.objects / prefix[:2]
    names = [p.name for p in directory.glob(f"{prefix[2:]}*.meta")] if directory.is_dir() else []
    found = []
    for name in names:
        object_id = ObjectId(bytes.fromhex(prefix[:2] + name.removesuffix(".meta")))
        if _is_commit(repository, object_id):
            found.append(object_id)
    if len(found) == 1:
        return found[0]
    if found:
        raise RevisionError(f"{prefix} is ambiguous: {len(found)} commits begin with it")
    raise RevisionError(
        f"no commit here begins with {prefix}",
        hint="`hacktree log BRANCH` lists the builds.",
    )


def _is_commit(repository: Repository, object_id: ObjectId) -> bool:
    path = repository.objects / object_id.hex()[:2] / f"{object_id.hex()[2:]}.meta"
    if path.stat().st_size > MAX_COMMIT_SIZE:
        return False
    try:
        decode_commit(repository.read_meta(object_id, MAX_COMMIT_SIZE))
    except FormatError:
        return False
    return True
