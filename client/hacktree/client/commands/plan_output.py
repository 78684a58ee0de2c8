"""How `hacktree deploy` and `hacktree pull` show what a deploy would do, to people and programs."""

import argparse
from collections.abc import Sequence
from typing import Final

import msgspec

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


class Foreseen(msgspec.Struct, frozen=True):
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
        found = compared.packages
        lines += [f"package {a.name}: {a.version} → {b.version}" for a, b in found.changed]
        lines += [f"package {p.name}: added {p.version}" for p in found.added]
        lines += [f"package {p.name}: removed {p.version}" for p in found.removed]
    if paths:
        lines += [f"A /{name}" for name in compared.added]
        lines += [f"M /{name}" for name in compared.changed]
        lines += [f"D /{name}" for name in compared.removed]
    return lines


def _describe_steps(foreseen: Foreseen) -> list[str]:
    """The steps that run or come from the cache, what they bring, and what the live root alone has.

    Nothing of a root that is there: its steps were done.
    """
    plan = foreseen.plan
    if plan.action is not DeployAction.CHECK_OUT:
        return []
    lines = []
    for planned in plan.replay.steps:
        lines.append(f"step {planned.step.name} ({'cached' if planned.cached else 'to run'})")
        lines += [f"  {text}" for text in _contents(planned.step)]
    return lines + [f"no longer: step {name}" for name in _steps_gone(foreseen)]


def _steps_gone(foreseen: Foreseen) -> list[str]:
    if foreseen.live is None:
        return []
    names = {planned.step.name for planned in foreseen.plan.replay.steps}
    return [step.name for step in foreseen.live.steps if step.name not in names]


def _contents(step: Step) -> list[str]:
    """What a step brings, for one whose name does not say it."""
    if isinstance(step, ExtensionStep):
        return [one.file.name for one in step.stored]
    if isinstance(step, LayerStep):
        commit = step.layer.commit
        return [f"version {commit.sequence}, {commit.totals.files} files"]
    return []


def _describe_edits(foreseen: Foreseen, *, paths: bool) -> list[str]:
    edits = foreseen.edits
    if not edits:
        return []
    old = foreseen.plan.old
    unless = "" if _is_certain(foreseen.plan) else ", unless a step makes it again"
    lines = [f"left behind of what was changed by hand in {old}{unless}; a copy is kept:"]
    shown = edits if paths else edits[:_MOST_EDITS]
    lines += [f"  {edit.kind.letter} /{display_path(edit.path)}" for edit in shown]
    more = len(edits) - len(shown)
    return [*lines, f"  and {more} more"] if more else lines


def _is_certain(plan: DeployPlan) -> bool:
    """Whether what is left behind is known: of a new root only if it has no steps."""
    return plan.action is not DeployAction.CHECK_OUT or not plan.replay.steps


def plan_document(foreseen: Foreseen, *, paths: bool) -> dict[str, object]:
    """The same for programs."""
    plan, compared = foreseen.plan, foreseen.compared
    steps = [planned.step for planned in plan.replay.steps]
    return {
        "action": plan.action.value,
        "root": plan.record.root,
        "commit": plan.record.commit,
        "from": plan.old,
        "remove": list(plan.removed),
        "files": plan.commit.totals.files,
        "steps": [_step_document(planned) for planned in plan.replay.steps],
        "steps-gone": _steps_gone(foreseen),
        "extensions": [
            one.file.name
            for step in steps
            if isinstance(step, ExtensionStep)
            for one in step.stored
        ],
        "layers": [
            {
                "name": step.layer.name,
                "version": step.layer.commit.sequence,
                "files": step.layer.commit.totals.files,
            }
            for step in steps
            if isinstance(step, LayerStep)
        ],
        "scripts": [step.script.name for step in steps if isinstance(step, ScriptStep)],
        "changes": None if compared is None else _comparison_document(compared, paths=paths),
        "left-behind": {
            "certain": _is_certain(plan),
            "changes": [
                {"path": f"/{display_path(edit.path)}", "change": edit.kind.value}
                for edit in foreseen.edits
            ],
        },
    }


def _step_document(planned: PlannedStep) -> dict[str, object]:
    return {"name": planned.step.name, "key": planned.key, "cached": planned.cached}


def _comparison_document(compared: Comparison, *, paths: bool) -> dict[str, object]:
    kinds = {"added": compared.added, "changed": compared.changed, "removed": compared.removed}
    document: dict[str, object] = {kind: len(names) for kind, names in kinds.items()}
    if paths:
        document["paths"] = {kind: [f"/{name}" for name in names] for kind, names in kinds.items()}
    if compared.packages is not None:
        document["packages"] = compared.packages.as_document()
    return document
