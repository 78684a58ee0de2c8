"""What `hacktree bisect` tells programs: JSON documents of how a search stands and ended."""

from collections.abc import Mapping
from types import MappingProxyType

from hacktree.client.bisect.core.model import Candidate, Verdict
from hacktree.client.bisect.core.state import (
    EndpointWrong,
    Found,
    Outcome,
    State,
    current_state,
)
from hacktree.client.bisect.driver import under_test
from hacktree.client.bisect.report.history import levels
from hacktree.client.bisect.store import Saved
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot

_NONE: Mapping[str, str] = MappingProxyType({})


def status_document(
    sysroot: Sysroot, saved: Saved, hints: Mapping[str, str] = _NONE, *, verbose: bool
) -> dict[str, object]:
    """How a search stands; with `verbose` every build of the line, and what suites said."""
    session, local, options = saved.session, saved.local, saved.session.options
    state = current_state(session)
    candidate = under_test(saved)
    document: dict[str, object] = {
        "id": session.id,
        "remote": session.remote,
        "branch": state.line[0].branch,
        "created": session.created,
        "terms": {"good": options.terms.good, "bad": options.terms.bad},
        "find-fix": options.find_fix,
        "votes": options.votes,
        "verify": options.verify.value,
        "strict-midpoint": options.strict_midpoint,
        "deploy": options.deploy,
        "constant": options.constant,
        "tested-elsewhere": options.imported,
        "old": {**build_document(state.before), "evidence": state.low_evidence.value},
        "new": {**build_document(state.last), "evidence": state.high_evidence.value},
        "coarser": [
            {"branch": above.line[0].branch, "before": build_document(above.before)}
            for above in reversed(levels(state)[:-1])
        ],
        "suspects": len(state.suspects),
        "tests": state.tests,
        "tests-left": state.answers_left,
        "received-bytes": local.received,
        "started-root": local.started or None,
        "under-test": None,
        "outcome": None if state.outcome is None else outcome_document(state.outcome),
    }
    if candidate is not None and local.intent is not None:
        document["under-test"] = {
            **build_document(candidate),
            "step": local.intent.step.value,
            "root": local.intent.root or None,
            **_where(sysroot, local.intent.root),
        }
    if verbose:
        document["line"] = [
            {
                **build_document(build),
                "known": _known(state, index),
                **({"farm": hints[build.commit]} if build.commit in hints else {}),
            }
            for index, build in enumerate(state.line)
        ]
    return document


def _where(sysroot: Sysroot, root: str) -> dict[str, bool]:
    """Whether a root is what the next boot takes, and what this machine runs."""
    roots = read_roots(sysroot)
    return {"live": root == roots.current, "booted": root == roots.running}


def _known(state: State, index: int) -> str | None:
    known: Verdict | None = state.known(index)
    return None if known is None else known.value


def outcome_document(outcome: Outcome) -> dict[str, object]:
    """How it ended, for programs."""
    if isinstance(outcome, Found):
        return {
            "kind": "found",
            "first": build_document(outcome.first),
            "before": build_document(outcome.before),
        }
    if isinstance(outcome, EndpointWrong):
        return {
            "kind": "endpoint-wrong",
            "end": outcome.end.value,
            "build": build_document(outcome.candidate),
            "answered": outcome.answered.value,
        }
    return {
        "kind": "inconclusive",
        "before": build_document(outcome.before),
        "suspects": [build_document(build) for build in outcome.suspects],
    }


def build_document(build: Candidate) -> dict[str, object]:
    """A build, for programs."""
    return {
        "commit": build.commit,
        "branch": build.branch,
        "sequence": build.sequence,
        "version": build.version,
        "time": build.time,
    }
