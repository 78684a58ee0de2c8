"""The dashboard as one page of HTML: no script, nothing loaded, whatever the names in it are.

Jinja escapes every value. What would not print, such as marks that turn the direction of writing,
is shown as its escape, so that no version can pose as another.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup

from hacktree.common.objects.moments import display_time, machine_time
from hacktree.common.objects.names import display_text
from hacktree.common.repository.config import format_size
from hacktree.server.dashboard.state import FarmState

_PLACE: Final = Path(__file__).parent
_OUTCOMES: Final = {"pass": "good", "fail": "bad", "inconclusive": "unsure"}
_CAUSES: Final = {
    "moving": ("good", "moving"),
    "up-to-date": ("good", "up to date"),
    "no-suite": ("quiet", "no suite"),
    "empty": ("quiet", "empty"),
    "not-due": ("quiet", "not due"),
    "untested": ("quiet", "untested"),
    "running": ("quiet", "being tested"),
    "inconclusive": ("unsure", "inconclusive"),
    "branch-held": ("unsure", "held"),
    "held": ("unsure", "build held"),
    "failed": ("bad", "failed"),
    "unsigned": ("bad", "not signed"),
}
"""How a cause of `branch status` looks, and what it is called."""


def render_page(state: FarmState) -> bytes:
    """The page, in UTF-8."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PLACE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        time=display_time, iso=machine_time, size=format_size, duration=_duration, count=_count
    )
    style = environment.get_template("page.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template("page.html").render(
        farm=state,
        style_digest=digest,
        outcomes=_OUTCOMES,
        causes=_CAUSES,
        alarms=_alarms(state),
    )
    return page.encode()


def _alarms(state: FarmState) -> list[str]:
    """What somebody should look at, in a line each."""
    alarms = []
    expired = [one.role for one in state.signatures if one.expired and one.expires]
    if expired:
        named = ", ".join(expired[:3]) + (" and others" if len(expired) > 3 else "")
        alarms.append(f"{_count(len(expired), 'signature')} expired: {named}")
    if state.failed_job_count:
        alarms.append(f"{_count(state.failed_job_count, 'job')} failed")
    return alarms


def _printable(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return display_text(value)


def _count(number: int, noun: str) -> str:
    return (
        f"{number} {noun}"
        if number == 1
        else f"{number} {noun}{'es' if noun.endswith('ch') else 's'}"
    )


def _duration(seconds: float) -> str:
    """The two largest units: '< 1 s', '5 s', '3 min 20 s', '2 h 5 min', '1 d'."""
    if seconds < 1:
        return "< 1 s"
    left, parts = int(seconds), []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
