"""What `hacktree pull` does, once its command line is read: prepare, pull, say so, deploy."""

import argparse
import asyncio
import gc
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hacktree.client.commands.pull_place import Place
from hacktree.client.connect import open_references, open_source_beside
from hacktree.client.heads import HeadReader, UnsignedHeads
from hacktree.client.network_process import NetworkProcess
from hacktree.client.plan import Progress
from hacktree.client.progress import JsonProgress, TerminalProgress, plan_as_json
from hacktree.client.pull import (
    PullPlan,
    PullReport,
    PullRequest,
    PullResult,
    decoders,
    plan_only,
    pull,
)
from hacktree.client.source import Source, Traffic
from hacktree.common.cli.output import emit_json, say, show, tell
from hacktree.common.delta.prefer import Prefer
from hacktree.common.repository.config import format_size
from hacktree.common.repository.decoding import DecoderPool

if TYPE_CHECKING:
    from hacktree.client.deploy import DeployPlan
    from hacktree.client.sysroot import Sysroot

_GC_THRESHOLDS: Final = (100_000, 20, 50)


class _Job(msgspec.Struct, frozen=True):
    """What to pull from where; `network` reads a remote that is not on this machine."""

    place: Place
    request: PullRequest
    references: tuple[Path, ...]
    network: NetworkProcess | None


def execute(args: argparse.Namespace, place: Place, network: NetworkProcess | None) -> int:
    """Do it; returns the exit status. `network`, which is ended, reads a remote that is not on this
    machine.
    """
    prefer = None if args.no_deltas else Prefer(args.prefer)
    request = PullRequest(place.remote.name, place.wanted, args.connections, prefer)
    job = _Job(place, request, tuple(map(Path, args.reference)), network)
    if args.dry_run:
        with network or nullcontext():
            plan, traffic = asyncio.run(_plan(job))
        _show_plan(job, plan, traffic, args)
        return 0
    started = time.monotonic()
    report = _choose_report(args)
    # What a pull builds lives until it ends: looking for garbage in it costs a twentieth of it.
    gc.set_threshold(*_GC_THRESHOLDS)
    with network or nullcontext(), decoders(place.repository) as pool:
        if prefer is not None:
            pool.fork()  # Now, before there are threads.
        result, traffic = asyncio.run(_pull(job, report, pool))
    _summarise(job, result, traffic, time.monotonic() - started, args)
    if place.sysroot is not None and not args.pull_only:
        from hacktree.client.commands.deploy import deploy_pulled

        return deploy_pulled(place.sysroot, result.target.id, place.remote.name, args)
    return 0


async def _plan(job: _Job) -> tuple[PullPlan, Traffic]:
    async with open_source_beside(job.place.remote, job.network) as source:
        sources: list[Source] = [*open_references(job.references), source]
        heads = _heads(job.place, source)
        plan = await plan_only(job.place.repository, job.request, heads, sources)
        return plan, source.traffic


async def _pull(job: _Job, report: PullReport, pool: DecoderPool) -> tuple[PullResult, Traffic]:
    async with open_source_beside(job.place.remote, job.network) as source:
        sources: list[Source] = [*open_references(job.references), source]
        heads = _heads(job.place, source)
        result = await pull(job.place.repository, job.request, heads, sources, report, pool)
        return result, source.traffic


def _heads(place: Place, source: Source) -> HeadReader:
    if place.remote.trust == "unsigned":
        return UnsignedHeads(source)
    from hacktree.client.signed_heads import SignedHeads

    return SignedHeads(place.repository, place.remote, source)


class _LineProgress(PullReport):
    """--verbose where there is no terminal: one line for the plan."""

    def planned(self, plan: PullPlan) -> None:
        fetches = len(plan.content.fetches)
        size = format_size(plan.content.fetch_bytes)
        tell(f"{fetches} files to fetch ({size} unpacked)")

    def progressed(self, progress: Progress) -> None:
        if progress.objects_done == progress.objects_total:
            tell(f"{progress.objects_done} objects done")


def _choose_report(args: argparse.Namespace) -> PullReport:
    if args.json_progress:
        return JsonProgress(sys.stdout, time.monotonic)
    if sys.stderr.isatty() and not args.quiet:
        columns = shutil.get_terminal_size().columns
        return TerminalProgress(sys.stderr, time.monotonic, columns)
    return _LineProgress() if args.verbose else PullReport()


def _show_plan(job: _Job, plan: PullPlan, traffic: Traffic, args: argparse.Namespace) -> None:
    """What would be fetched, then what would be deployed of it."""
    programs = args.json or args.json_progress
    if not programs:
        _print_plan(plan, traffic)
    if job.place.sysroot is None or args.pull_only:
        if programs:
            emit_json(plan_as_json(plan))
        return
    from hacktree.client.commands.plan_output import describe_plan, foresee_deploy, plan_document

    foreseen = foresee_deploy(_plan_deploy(job.place.sysroot, plan))
    if programs:
        deploy = plan_document(foreseen, paths=args.verbose)
        emit_json({**plan_as_json(plan), "deploy": deploy})
        return
    for line in describe_plan(foreseen, paths=args.verbose):
        show(line)


def _plan_deploy(sysroot: "Sysroot", plan: PullPlan) -> "DeployPlan":
    """Of a build that is not here, but for its trees, which were read for planning."""
    from hacktree.client.deploy import DeployOptions, plan_commit
    from hacktree.client.foreseen import foresee
    from hacktree.client.replay.sources import foreseen_steps_of

    target = plan.target
    arrived = foresee(sysroot, [target.data, *plan.trees])
    options = DeployOptions(steps_of=foreseen_steps_of)
    return plan_commit(arrived, target.id, target.commit, options)


def _print_plan(plan: PullPlan, traffic: Traffic) -> None:
    content = plan.content
    show(f"Commit {plan.target.id.hex()[:16]}  {plan.target.commit.version}".rstrip())
    show(f"  to fetch   {len(content.fetches)} files, {format_size(content.fetch_bytes)} unpacked")
    show(f"  to copy    {len(content.copies)} files that are here with other attributes")
    show(f"  reused     {content.reused_files} files, {format_size(content.reused_bytes)}")
    show(f"  trees      {plan.trees_fetched} to fetch, {plan.trees_reused} reused")
    for line in _describe_packs(plan):
        show(line)
    whole = len(plan.beside_packs.fetches)
    ranges = 0 if plan.packs is None else sum(len(pack.ranges) for pack in plan.packs.packs)
    show(f"  requests   about {whole + ranges + traffic.requests}")
    show(f"  disk       {format_size(plan.space_needed)} needed")


def _describe_packs(plan: PullPlan) -> list[str]:
    """The route and what it costs, and what was not taken."""
    lines = []
    if plan.packs is not None and plan.choice.route is not None:
        route, work = plan.choice.route, plan.packs.work
        names = " ".join(edge.pack.hex()[:12] for edge in route.edges)
        entries = sum(len(pack.entries) for pack in plan.packs.packs)
        seconds = plan.choice.model.work_seconds(work)
        lines += [
            f"  packs      {names}",
            f"             {entries} objects by delta, {len(plan.beside_packs.fetches)} whole, "
            f"{format_size(work.bytes)}, about {seconds:.1f} s",
        ]
    lines += [
        f"  not taken  {len(route.edges)} packs, {format_size(route.work.bytes)}, "
        f"about {route.seconds:.1f} s"
        for route in plan.choice.alternatives
    ]
    return lines + [f"  note       {note}" for note in plan.choice.notes]


def _summarise(
    job: _Job, result: PullResult, traffic: Traffic, seconds: float, args: argparse.Namespace
) -> None:
    totals = result.totals
    figures = {
        "commit": result.target.id.hex(),
        "changed": not result.was_complete,
        "reused-files": result.reused_files,
        "reused-bytes": result.reused_bytes,
        "fetched-objects": totals.fetched_objects + result.trees_fetched,
        "fetched-bytes": totals.fetched_bytes,
        "delta-objects": result.packs.objects,
        "delta-bytes": result.packs.bytes,
        "delta-missed": result.packs.missed,
        "delta-notes": result.packs.notes,
        "copied-objects": totals.copied_objects,
        "linked-objects": totals.linked_objects,
        "received-bytes": traffic.bytes,
        "requests": traffic.requests,
        "seconds": round(seconds, 3),
    }
    if args.json_progress:
        JsonProgress(sys.stdout, time.monotonic).write({"event": "done", **figures})
        return
    if args.json and (job.place.sysroot is None or args.pull_only):
        emit_json(figures)
        return
    branch, short = job.request.wanted.branch, result.target.id.hex()[:16]
    if result.was_complete:
        say(args, f"{branch} is at {short}, which is here: nothing to fetch")
        return
    say(
        args,
        f"{branch} is at {short}: reused {result.reused_files} files "
        f"({format_size(result.reused_bytes)}), {result.packs.objects} files by delta, "
        f"{totals.fetched_objects + result.trees_fetched} objects whole "
        f"({format_size(traffic.bytes)} received) in {traffic.requests} requests, {seconds:.1f} s",
    )
    if result.packs.missed and not args.verbose:
        say(args, f"  {result.packs.missed} of them were to come by delta: --verbose says why not")
    if args.verbose:
        for note in result.packs.notes:
            say(args, f"  {note}")
