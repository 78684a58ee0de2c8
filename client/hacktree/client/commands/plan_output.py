"""How `hacktree deploy` and `hacktree pull` show what a deploy would do, to people and programs."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hacktree.client.comparison import Comparison, compare_builds
from hacktree.client.deploy import DeployAction, DeployPlan
from hacktree.client.edits.carrying import may_stay_behind, stays_behind
from hacktree.client.edits.edits import Edit, root_edits
from hacktree.client.extensions.step import ExtensionStep
from hacktree.client.layers.steps import LayerStep
from hacktree.client.replay.replay import PlannedStep
from hacktree.client.replay.step import Step
from hacktree.client.roots import RootRecord, read_record
from hacktree.client.scripts.step import ScriptStep
from hacktree.common.cli.output import emit_json, show
from hacktree.common.objects.names import display_path

_MOST_EDITS: Final = 20


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A plan against the root that is live: its record, if there is one, what the build changes
    (None if it is the same), and the edits by hand that the new root goes without.
    """

    plan: DeployPlan
    live: RootRecord | None
    compared: Comparison | None
    edits: Sequence[Edit]


def foresee_deploy(plan: DeployPlan) -> Foreseen:
    """Compare with what is live."""
    sysroot = plan.replay.build.sysroot
    live = None if plan.old is None else read_record(sysroot, plan.old)
    compared = None
    if live is not None and live.commit != plan.record.commit:
        repository = sysroot.repository
        compared = compare_builds(repository, repository.load_commit(live.commit_id), plan.commit)
    return Foreseen(plan, live, compared, _edits(plan))


def _edits(plan: DeployPlan) -> list[Edit]:
    sysroot = plan.replay.build.sysroot
    if plan.old is None or plan.action is DeployAction.NOTHING:
        return []
    if plan.action is DeployAction.REUSE:
        return stays_behind(sysroot, plan.old, plan.record.root)
    return may_stay_behind(sysroot.repository, root_edits(sysroot, plan.old), plan.commit)


def show_plan(args: argparse.Namespace, plan: DeployPlan) -> None:
    """What would be done; with --verbose, every path."""
    foreseen = foresee_deploy(plan)
    if args.json:
        emit_json(plan_document(foreseen, paths=args.verbose))
        return
    for line in describe_plan(foreseen, paths=args.verbose):
        show(line)


def describe_plan(foreseen: Foreseen, *, paths: bool) -> list[str]:
    """A line for each thing that is done or changes."""
    plan = foreseen.plan
    root = plan.record.root
    lines = [
        {
            DeployAction.NOTHING: f"nothing to do: {root} is live already",
            DeployAction.REUSE: f"swap to the existing root {root}",
            DeployAction.CHECK_OUT: f"check out {plan.commit.totals.files} files, swap to {root}",
        }[plan.action]
    ]
    if foreseen.compared is not None:
        lines += _describe_comparison(foreseen.compared, plan.old or "", paths=paths)
    lines += _describe_steps(foreseen)
    lines += _describe_edits(foreseen, paths=paths)
    return lines + [f"remove {name}" for name in plan.removed]


def _describe_comparison(compared: Comparison, live: str, *, paths: bool) -> list[str]:
    lines = [
        f"against {live}: {len(compared.added)} paths added, {len(compared.changed)} changed, "
        f"{len(compared.removed)} removed"
    ]
    if compared.packages is not None:
        document["packages"] = compared.packages.as_document()
    return document
