"""What a person or a program sees while a pull runs."""

import json
from collections.abc import Callable
from typing import IO, Final

from hacktree.client.plan import Progress
from hacktree.client.pull import PullPlan, PullReport
from hacktree.common.repository.config import format_size

_INTERVAL: Final = 0.2
"""Seconds between two updates."""


def plan_as_json(plan: PullPlan) -> dict[str, object]:
    """A plan for programs; bytes are decoded."""
    return {
        "commit": plan.target.id.hex(),
        "version": plan.target.commit.version,
        "sequence": plan.target.commit.sequence,
        "trees-fetched": plan.trees_fetched,
        "trees-reused": plan.trees_reused,
        "fetch-objects": len(plan.content.fetches),
        "fetch-bytes": plan.content.fetch_bytes,
        "copy-objects": len(plan.content.copies),
        "reused-files": plan.content.reused_files,
        "reused-bytes": plan.content.reused_bytes,
        "space-needed": plan.space_needed,
        "route": _route_as_json(plan),
    }


def _route_as_json(plan: PullPlan) -> dict[str, object] | None:
    """The packs that are taken, and what they cost; None: there are none."""
    if plan.packs is None or plan.choice.route is None:
        return None
    work = plan.packs.work
    return {
        "packs": [edge.pack.hex() for edge in plan.choice.route.edges],
        "delta-objects": sum(len(pack.entries) for pack in plan.packs.packs),
        "whole-objects": len(plan.beside_packs.fetches),
        "bytes": work.bytes,
        "requests": work.requests,
        "decode-us": work.decode_us,
        "seconds": round(plan.choice.model.work_seconds(work), 3),
        "bandwidth": round(plan.choice.model.bandwidth),
        "alternatives": [
            {
                "packs": [edge.pack.hex() for edge in route.edges],
                "bytes": route.work.bytes,
                "seconds": round(route.seconds, 3),
            }
            for route in plan.choice.alternatives
        ],
    }


class JsonProgress(PullReport):
    """One JSON document a line: the plan, then how far it is."""

    def __init__(self, stream: IO[str], clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._next = 0.0

    def planned(self, plan: PullPlan) -> None:
        """Write the plan."""
        self.write({"event": "plan", **plan_as_json(plan)})

    def progressed(self, progress: Progress) -> None:
        """Write how far it is, a few times a second and at the end."""
        now = self._clock()
        if now < self._next and progress.objects_done != progress.objects_total:
            return
        self._next = now + _INTERVAL
        self.write(
            {
                "event": "progress",
                "objects-done": progress.objects_done,
                "objects-total": progress.objects_total,
                "bytes-done": progress.bytes_done,
                "bytes-total": progress.bytes_total,
                "bytes-received": progress.received,
            }
        )

    def write(self, event: dict[str, object]) -> None:
        """Write one event."""
        print(json.dumps(event), file=self._stream, flush=True)


class TerminalProgress(PullReport):
    """One line on a terminal that is rewritten in place."""

    def __init__(self, stream: IO[str], clock: Callable[[], float], columns: int) -> None:
        self._stream = stream
        self._clock = clock
        self._columns = columns
        self._start = clock()
        self._next = 0.0

    def planned(self, plan: PullPlan) -> None:
        """Say what is about to be fetched."""
        content = plan.content
        self._show(
            f"{len(content.fetches)} files to fetch ({format_size(content.fetch_bytes)} unpacked), "
            f"{content.reused_files} are here"
        )
        print(file=self._stream)
        self._start = self._clock()

    def progressed(self, progress: Progress) -> None:
        """Rewrite the line, a few times a second and at the end."""
        now = self._clock()
        is_last = progress.objects_done == progress.objects_total
        if now < self._next and not is_last:
            return
        self._next = now + _INTERVAL
        self._show(progress_line(progress, now - self._start))
        if is_last:
            print(file=self._stream)

    def _show(self, text: str) -> None:
        width = max(self._columns - 1, 20)
        self._stream.write(f"\r{text[:width].ljust(width)}")
        self._stream.flush()


def progress_line(progress: Progress, seconds: float) -> str:
    """Bytes, objects, rate and time left."""
    share = progress.bytes_done / progress.bytes_total if progress.bytes_total else 1.0
    line = (
        f"{share:4.0%}  {format_size(progress.bytes_done)} of {format_size(progress.bytes_total)}  "
        f"{progress.objects_done}/{progress.objects_total} objects"
    )
    if seconds <= 0:
        return line
    line += f"  {format_size(progress.received / seconds)}/s"
    if 0 < share < 1:
        left = int(seconds * (1 - share) / share)
        line += f"  {left // 60}:{left % 60:02} left"
    return line
