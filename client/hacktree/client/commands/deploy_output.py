"""How `hacktree deploy` and `hacktree pull` show a plan and a result, to people and programs."""

import argparse
from collections.abc import Sequence

from hacktree.client.comparison import Comparison, compare_builds
from hacktree.client.deploy import DeployAction, DeployPlan, DeployResult
from hacktree.client.replay.replay import PlannedStep
from hacktree.client.roots import read_record
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.output import emit_json, say, show


def show_plan(args: argparse.Namespace, sysroot: Sysroot, plan: DeployPlan) -> None:
    """What would be done; with --verbose, every path."""
    compared = _compare(sysroot, plan)
    if args.json:
        emit_json(_plan_document(plan, compared, paths=args.verbose))
        return
    root = plan.record.root
    show(
        {
            DeployAction.NOTHING: f"nothing to do: {root} is live already",
            DeployAction.REUSE: f"swap to the existing root {root}",
            DeployAction.CHECK_OUT: f"check out {plan.commit.totals.files} files, swap to {root}",
        }[plan.action]
    )
    if compared is not None:
        _print_comparison(compared, plan.old or "", paths=args.verbose)
    if plan.action is DeployAction.CHECK_OUT:
        for line in describe_steps(plan.replay.steps):
            show(line)
    for name in plan.removed:
        show(f"remove {name}")


def describe_steps(steps: Sequence[PlannedStep]) -> list[str]:
    """A line for each step."""
    return [
        f"step {planned.step.name} ({'cached' if planned.cached else 'to run'})"
        for planned in steps
    ]


def steps_document(steps: Sequence[PlannedStep]) -> list[dict[str, object]]:
    """The same for programs."""
    return [
        {"name": planned.step.name, "key": planned.key, "cached": planned.cached}
        for planned in steps
    ]


def _compare(sysroot: Sysroot, plan: DeployPlan) -> Comparison | None:
    """Against the live root's commit; None without one, or where both are the same."""
    live = None if plan.old is None else read_record(sysroot, plan.old)
    if live is None or live.commit == plan.record.commit:
        return None
    repository = sysroot.repository
    return compare_builds(repository, repository.load_commit(live.commit_id), plan.commit)


def _print_comparison(compared: Comparison, live: str, *, paths: bool) -> None:
    show(
        f"against {live}: {len(compared.added)} paths added, {len(compared.changed)} changed, "
        f"{len(compared.removed)} removed"
    )
    if compared.packages is not None:
        for before, after in compared.packages.changed:
            show(f"package {before.name}: {before.version} → {after.version}")
        for package in compared.packages.added:
            show(f"package {package.name}: added {package.version}")
        for package in compared.packages.removed:
            show(f"package {package.name}: removed {package.version}")
    if paths:
        kinds = (("A", compared.added), ("M", compared.changed), ("D", compared.removed))
        for letter, names in kinds:
            for name in names:
                show(f"{letter} /{name}")


def _plan_document(
    plan: DeployPlan, compared: Comparison | None, *, paths: bool
) -> dict[str, object]:
    return {
        "action": plan.action.value,
        "root": plan.record.root,
        "commit": plan.record.commit,
        "from": plan.old,
        "remove": list(plan.removed),
        "files": plan.commit.totals.files,
        "steps": steps_document(plan.replay.steps),
        "changes": None if compared is None else _comparison_document(compared, paths=paths),
    }


def _comparison_document(compared: Comparison, *, paths: bool) -> dict[str, object]:
    kinds = {"added": compared.added, "changed": compared.changed, "removed": compared.removed}
    document: dict[str, object] = {kind: len(names) for kind, names in kinds.items()}
    if paths:
        document["paths"] = {kind: [f"/{name}" for name in names] for kind, names in kinds.items()}
    if compared.packages is not None:
        found = compared.packages
        document["packages"] = {
            "changed": [[a.name, a.architecture, a.version, b.version] for a, b in found.changed],
            "added": [[p.name, p.architecture, p.version] for p in found.added],
            "removed": [[p.name, p.architecture, p.version] for p in found.removed],
        }
    return document


def result_document(result: DeployResult) -> dict[str, object]:
    """What a deploy did, for programs; `seconds` by phase, and by step of the replay."""
    document: dict[str, object] = {
        "root": result.root,
        "changed": result.changed,
        "action": result.action.value,
        "from": result.previous,
        "linked": result.linked,
        "copied": result.copied,
        "removed": result.removed,
        "notes": result.notes,
        "seconds": {name: round(seconds, 4) for name, seconds in result.steps},
    }
    replayed = result.replayed
    if replayed is not None:
        seconds = dict(replayed.seconds)
        document["steps"] = [
            {
                "name": planned.step.name,
                "cached": planned.step.name not in replayed.ran,
                "seconds": round(seconds.get(planned.step.name, 0.0), 4),
            }
            for planned in replayed.plan.steps
        ]
        document["skipped"] = replayed.skipped
    if result.proved is not None:
        document["proved"] = {"objects": result.proved.objects, "read": result.proved.read}
    return document


def show_result(args: argparse.Namespace, result: DeployResult) -> None:
    """What a deploy did; with --verbose, how long each part took."""
    if args.json:
        emit_json(result_document(result))
        return
    if not result.changed:
        say(args, f"nothing to do: {result.root} is live already")
    else:
        came = f" (was {result.previous})" if result.previous else ""
        say(args, f"{result.root} is live{came}{_describe_replay(result)}")
    for name in result.removed:
        say(args, f"removed {name}")
    if args.verbose:
        for name, seconds in result.steps:
            say(args, f"  {name}: {seconds:.3f} s")
            if name == "replay" and result.replayed is not None:
                for step, spent in result.replayed.seconds:
                    say(args, f"    {step}: {spent:.3f} s")


def _describe_replay(result: DeployResult) -> str:
    replayed = result.replayed
    if replayed is None:
        return ""
    ran, total = len(replayed.ran), len(replayed.plan.steps)
    seconds = sum(seconds for _, seconds in result.steps)
    skipped = f", without {', '.join(replayed.skipped)}" if replayed.skipped else ""
    return f"; {total} steps, {total - ran} of them cached{skipped}, {seconds:.1f} s"
