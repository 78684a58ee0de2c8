"""What a bisection holds constant: this machine's own changes to roots, by their digests.

Builds can be compared only where all else is equal: the same scripts, extensions and layers.
"""

from collections.abc import Mapping
from hashlib import sha256

from hacktree.client.extensions.store import list_stored
from hacktree.client.layers.steps import enabled_layers
from hacktree.client.scripts.answers import ANSWERS_PATH
from hacktree.client.scripts.step import script_digest
from hacktree.client.scripts.store import enabled_scripts
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import UserError


class ChangedMeanwhileError(UserError):
    """What was to be held constant has changed since the bisection began."""


def read_held(sysroot: Sysroot) -> dict[str, str]:
    """The digest, in hexadecimal, of each change that new roots get: 'script 10-locale' and so on.

    Raises `UserError` where one can't be used.
    """
    held = {
        f"extension {one.file.name}": sha256(one.digest + repr(one.options).encode()).hexdigest()
        for one in list_stored(sysroot)
    }
    for head, layer in enabled_layers(sysroot):
        options = (layer.definition.replace, layer.definition.remove)
        held[f"layer {layer.name}"] = sha256(head + repr(options).encode()).hexdigest()
    scripts = enabled_scripts(sysroot.path)
    held |= {f"script {script.name}": script_digest(script).hex() for script in scripts}
    if scripts:
        held |= _answers(sysroot)
    return held


def _answers(sysroot: Sysroot) -> dict[str, str]:
    """Which version of the answers: a digest of what may be a password belongs into no session."""
    try:
        status = (sysroot.path / ANSWERS_PATH).stat()
    except FileNotFoundError:
        return {}
    which = f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
    return {"answers of scripts": sha256(which.encode()).hexdigest()}


def describe_held(held: Mapping[str, str]) -> str:
    """For people: 'script 10-locale 3f9c21ab7, layer mesa 01c2…', or that there are none."""
    shown = [f"{name} {digest[:9]}" for name, digest in held.items()]
    return ", ".join(shown) or "no scripts, extensions or layers"


def refuse_changes(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise `ChangedMeanwhileError`, naming what changed, unless both are equal."""
    changes = [f"{name} is new" for name in now if name not in then]
    changes += [f"{name} is gone" for name in then if name not in now]
    changes += [f"{name} changed" for name in then if name in now and then[name] != now[name]]
    if changes:
        raise ChangedMeanwhileError(
            f"since this bisection began: {', '.join(changes)}",
            hint="Builds that were tested had it otherwise. Put it back and run `hacktree bisect "
            "next`; or go on with what is there: `hacktree bisect next --accept-changes`.",
        )
