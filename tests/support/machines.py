"""A machine with people, and builds with users of their own, for tests."""

from collections.abc import Mapping
from pathlib import Path

from hacktree.client.replay.step import Build
from hacktree.client.sysroot import Sysroot
from hacktree.common.repository.checkout import check_out
from support.plain_root import PlainRoot
from support.sysroots import make_sysroot
from support.trees import File, Spec, Symlink, make_commit

HASH = "$6$salt$9ZQ3"
"""Stands for a password's hash; nothing here checks one."""

MACHINE = {
    "passwd": """\
root:x:0:0:root:/root:/bin/bash
messagebus:x:101:101::/nonexistent:/usr/sbin/nologin
postgres:x:105:110::/var/lib/postgresql:/bin/bash
jane:x:1000:1000:Jane Doe,,,:/home/jane:/bin/zsh
bob:x:1001:100::/home/bob:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
""",
    "group": """\
root:x:0:
wheel:x:27:jane
users:x:100:
video:x:44:jane,bob,postgres
docker:x:999:jane
postgres:x:110:
jane:x:1000:
lab:x:1500:jane,bob
""",
    "shadow": f"""\
root:*:19000:0:99999:7:::
jane:{HASH}:19500:0:99999:7:::
bob:!:19500:0:99999:7:::
postgres:!:19500::::::
""",
    "gshadow": "jane:!::\n",
    "subuid": "jane:100000:65536\nbob:165536:65536\n",
    "subgid": "jane:100000:65536\nbob:165536:65536\n",
    "login.defs": "UID_MIN\t\t\t 1000\nUID_MAX 60000\n#GID_MIN 5\nGID_MIN 1000\nGID_MAX 60000\n",
}

BUILD = {
    "passwd": """\
root:x:0:0:root:/root:/bin/sh
messagebus:x:81:81:D-Bus:/:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
""",
    "group": """\
root:x:0:
wheel:x:10:
video:x:39:
shadow:x:42:
users:x:985:
messagebus:x:81:
nogroup:x:65534:
""",
    "shadow": "root:*:19000::::::\nmessagebus:!:19000::::::\nnobody:*:19000::::::\n",
    "gshadow": """\
root:*::
wheel:!::
video:!::
shadow:!::
users:!::
messagebus:!::
nogroup:!::
""",
    "subuid": "",
    "subgid": "",
}


def as_bytes(files: Mapping[str, str]) -> dict[str, bytes | None]:
    """The account files as the code reads them."""
    return {name: text.encode() for name, text in files.items()}


def make_machine(path: Path, config: str = "", files: Mapping[str, str] = MACHINE) -> Sysroot:
    """A sysroot with an `etc` of its own."""
    sysroot = make_sysroot(path, config)
    for name, text in files.items():
        (path / "etc" / name).write_text(text)
    (path / "home/jane").mkdir(parents=True)
    return sysroot


def build_tree() -> dict[str | bytes, Spec]:
    """A small build with account files and a shell."""
    accounts: dict[str | bytes, Spec] = {
        f"etc/{file}": File(
            text.encode(), 0o640 if "shadow" in file else 0o644, gid=42 if "shadow" in file else 0
        )
        for file, text in BUILD.items()
    }
    shell: dict[str | bytes, Spec] = {
        "usr/bin/bash": File(b"#!", 0o755),
        "bin": Symlink(b"usr/bin"),
    }
    return {**accounts, **shell}


def make_root(
    sysroot: Sysroot, tree: Mapping[str, Spec] | None = None, *, name: str = "root"
) -> PlainRoot:
    """That build and `tree`, committed and checked out."""
    whole = build_tree()
    whole.update(tree or {})
    commit_id = make_commit(sysroot.repository, whole)
    commit = sysroot.repository.load_commit(commit_id)
    path = sysroot.path.parent / name
    check_out(sysroot.repository, commit, path)
    return PlainRoot(path, Build(sysroot, commit_id, commit, None))
