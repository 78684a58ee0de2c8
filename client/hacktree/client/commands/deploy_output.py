"""How `hacktree deploy` and `hacktree pull` show what a deploy did, to people and programs."""

import argparse

from hacktree.client.deploy import DeployResult
from hacktree.common.cli.output import emit_json, say


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
