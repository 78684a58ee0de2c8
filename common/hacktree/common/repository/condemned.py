"""`state/condemned`: since when prune has seen each object unreachable.

A published archive must not delete at once what no branch reaches any more: a client may be in the
middle of pulling it. One line per object: unix time, space, name relative to objects/.
"""

from collections.abc import Iterable
from pathlib import Path

from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.repository import Repository


def _path(repository: Repository) -> Path:
    return repository.state / "condemned"


def read_condemned(repository: Repository) -> dict[str, float]:
    """First-seen times by object name.

    A damaged record is read as empty: the period of grace then begins anew, which deletes nothing
    early.
    """
    try:
        text = _path(repository).read_text("ascii")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        return {}
    condemned = {}
    for line in text.splitlines():
        seen, _, name = line.partition(" ")
        try:
            condemned[name] = float(seen)
        except ValueError:
            return {}
    return condemned


def condemn(known: dict[str, float], unreachable: Iterable[str], now: float) -> dict[str, float]:
    """The new record: unreachable objects keep their time or get `now`; the others leave.

    A time in the future (the clock was set back) counts as now.
    """
    return {name: min(known.get(name, now), now) for name in unreachable}


def write_condemned(repository: Repository, condemned: dict[str, float]) -> None:
    """Replace the record, durably."""
    lines = (f"{seen:.0f} {name}\n" for name, seen in sorted(condemned.items()))
    write_durably(_path(repository), "".join(lines).encode("ascii"))
