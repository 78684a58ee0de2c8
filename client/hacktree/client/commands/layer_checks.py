"""What stands in the way of layers, and running the command of one: for `hacktree layer`."""

import argparse
import os
import subprocess
from collections.abc import Callable
from typing import Final

from hacktree.client.layers.capture import Invocation
from hacktree.client.layers.laying import Layer
from hacktree.client.layers.steps import LayerCheck, check_layers, enabled_layers
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId

_STANDARD_ERROR: Final = 2


def runner(args: argparse.Namespace) -> Callable[[Invocation], int]:
    """Runs a layer's command on this terminal; where JSON is asked for, its output isn't ours."""

    def run(invocation: Invocation) -> int:
        environment = {**os.environ, **invocation.environment}
        output = _STANDARD_ERROR if args.json or args.quiet else None
        account = invocation.user
        if account is None:
            done = subprocess.run(
                invocation.command,
                cwd=invocation.directory,
                env=environment,
                stdout=output,
                pass_fds=[invocation.lock],
                check=False,
            )
            return done.returncode
        environment |= {"HOME": account.pw_dir, "USER": account.pw_name}
        environment["LOGNAME"] = account.pw_name
        done = subprocess.run(
            invocation.command,
            cwd=invocation.directory,
            env=environment,
            stdout=output,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
            pass_fds=[invocation.lock],
            check=False,
        )
        return done.returncode

    return run


def live_build(sysroot: Sysroot) -> ObjectId | None:
    """The commit of the live root."""
    live = read_roots(sysroot).live
    return live.commit_id if live is not None else None


Checked = tuple[str, LayerCheck]
"""What to call the build, and what was found."""


def check_live(sysroot: Sysroot) -> Checked:
    """Check the layers against the live build, if there is one."""
    live = live_build(sysroot)
    return ("", LayerCheck([], [])) if live is None else check_build(sysroot, live)


def check_build(sysroot: Sysroot, build: ObjectId) -> Checked:
    """Check the layers against a build."""
    repository = sysroot.repository
    tree = repository.load_commit(build).root.id
    layers: list[Layer] = [layer for _, layer in enabled_layers(sysroot)]
    called = f"build {build.hex()[:9]}"
    return called, check_layers(repository, tree, layers, called)


def check_lines(found: Checked) -> list[str]:
    """A line for each thing that was found."""
    called, check = found
    return [
        *(f"layer {conflict.layer} conflicts: {conflict}" for conflict in check.conflicts),
        *(misfit.describe(called) for misfit in check.misfits),
    ]


def check_document(found: Checked) -> dict[str, object]:
    """The same for JSON."""
    called, check = found
    return {
        "conflicts": [
            {"layer": one.layer, "path": os.fsdecode(one.path), "reason": one.why}
            for one in check.conflicts
        ],
        "misfits": [misfit.describe(called) for misfit in check.misfits],
    }
