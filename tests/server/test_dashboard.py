"""Promise: the dashboard shows how the farm is, to anybody, and nothing that is not for anybody."""

import base64
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from hacktree.common.cli.main import main
from hacktree.common.errors import CorruptError
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.refs import read_ref
from hacktree.server.dashboard.page import _duration
from hacktree.server.dashboard.publishing import publish_dashboard
from hacktree.server.dashboard.state import MAX_BLOCKERS, MAX_BUILDS
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.status import branch_status
from support.dashboards import ATTACK, FAULT, IMAGE, LOG, TURNED, hostile_farm
from support.documents import commands_in
from support.pulling import make_repository
from support.qa import DAILYQA, FAIL, FASTQA, PASS, QaFarm
from support.trees import make_commit
from support.trusting import BUILDS

NOW = int(time.time())


def published(qa: QaFarm) -> tuple[dict[str, Any], str]:
    """The document and the page."""
    publish_dashboard(qa.repository, qa.database, NOW)
    directory = qa.repository.path / "dashboard"
    document: dict[str, Any] = json.loads((directory / "dashboard.json").read_bytes())
    return document, (directory / "index.html").read_text()


def by_name(document: dict[str, Any]) -> dict[str, Any]:
    return {branch["name"]: branch for branch in document["branches"]}


def test_it_shows_what_the_farm_knows(tmp_path: Path) -> None:
    qa = hostile_farm(tmp_path / "farm")
    assert main(["--repo", str(qa.repository.path), "--quiet", "delta", "generate", "builds"]) == 0
    document, page = published(qa)
    assert (document["format"], document["time"]) == ("dashboard-1", NOW)
    branches = by_name(document)
    assert list(branches) == ["builds", "dailyqa", "fastqa", "side"]
    suites = read_suites(qa.repository)
    for name in (BUILDS, FASTQA, DAILYQA):
        status = branch_status(qa.repository, qa.database, suites, name, NOW)
        assert branches[name]["reason"] == status.reason
        assert branches[name]["cause"] == status.cause
        head = read_ref(qa.repository, name)
        assert branches[name]["head"] == (head and head.hex())
    builds = branches["builds"]["builds"]
    assert [build["sequence"] for build in builds] == [3, 2, 1]
    assert [build["version"] for build in builds] == [TURNED, IMAGE, ATTACK]
    outcomes = [[verdict["outcome"] for verdict in build["verdicts"]] for build in builds]
    assert outcomes == [[], ["fail"], ["pass"]]
    assert builds[2]["verdicts"][0]["duration"] == 62
    assert branches["fastqa"]["builds"][0]["promoted-from"] == builds[2]["id"]
    assert branches["fastqa"]["blocked"] == 2
    assert document["holds"][0]["build"] == branches["side"]["head"]
    assert document["holds"][0]["reason"] == ATTACK
    assert document["pack-count"] == len(list((qa.repository.path / "packs").iterdir()))
    assert document["pack-bytes"] == sum(
        path.stat().st_size for path in (qa.repository.path / "packs").iterdir()
    )
    assert {pack["new-build"] for pack in document["packs"]} >= {"builds 3"}
    assert {role["role"] for role in document["signatures"]} >= {"root", "builds", "timestamp"}
    # The dashboard's own job waits as well; nobody wants to hear of it.
    assert (document["waiting-jobs"], document["running-jobs"]) == (2, 0)
    failed = [(job["kind"], job["subject"]) for job in document["failed-jobs"]]
    assert set(failed) >= {("deltas", "side")}
    for text in ("build 2", "1 min 2 s", "builds 3", "untested"):
        assert text in page


def test_nothing_private_is_in_it(tmp_path: Path) -> None:
    """Tokens, logs, what went wrong in a job, and where things are on the server."""
    qa = hostile_farm(tmp_path / "farm")
    base = ["--repo", str(qa.repository.path)]
    assert main([*base, "token", "create", "--can", "push:**", "--expires", "1d"]) == 0
    document, page = published(qa)
    for text in (json.dumps(document), page):
        assert not re.search(r"ht_[0-9a-f]{8}", text)
        assert LOG.decode() not in text
        assert hashlib.sha256(LOG).hexdigest() not in text
        assert FAULT not in text
        assert str(tmp_path) not in text


def test_the_page_holds_nothing_that_runs_or_loads(tmp_path: Path) -> None:
    _, page = published(hostile_farm(tmp_path / "farm"))
    assert "<script" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert "1.0\\u202e0.9" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|dashboard\.json)""", page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src &#39;sha256-{digest}&#39;" in page or f"'sha256-{digest}'" in page
    assert "@import" not in style
    assert "url(" not in style


def test_lists_are_bounded_and_say_what_they_leave_out(tmp_path: Path) -> None:
    qa = QaFarm(make_repository(tmp_path / "farm"))
    for number in range(MAX_BUILDS + 3):
        qa.build(str(number))
    document, page = published(qa)
    branches = by_name(document)
    assert len(branches["builds"]["builds"]) == MAX_BUILDS
    assert len(branches["fastqa"]["blockers"]) == MAX_BLOCKERS
    assert branches["fastqa"]["blocked"] == MAX_BUILDS + 3
    assert f"and {MAX_BUILDS + 3 - MAX_BLOCKERS} more" in page


def test_a_build_that_claims_to_be_from_beyond_the_calendar_is_shown(tmp_path: Path) -> None:
    """Whoever pushes says when a build was made."""
    qa = QaFarm(make_repository(tmp_path / "farm"))
    make_commit(qa.repository, {"f": b"1"}, branch="builds", time=1 << 40)
    document, page = published(qa)
    (build,) = by_name(document)["builds"]["builds"]
    assert build["time"] == 1 << 40
    assert '<time datetime="9999-12-31T23:59:59Z">1099511627776 s after 1970</time>' in page


def test_what_was_pruned_is_not_named(tmp_path: Path) -> None:
    qa = QaFarm(make_repository(tmp_path / "farm"))
    base = ["--repo", str(qa.repository.path), "--quiet"]
    old = qa.build("1")
    qa.judge(PASS)
    assert main([*base, "qa", "sign", FASTQA]) == 0
    qa.build("2")
    assert old.hex() in json.dumps(published(qa)[0])
    config = qa.repository.path / "config.toml"
    config.write_text('min-free-space = "0"\nkeep-unreachable-hours = 0\n')
    assert main([*base, "prune", "--keep-depth", "0"]) == 0
    assert old.hex() not in json.dumps(published(qa)[0]["branches"][2]["builds"])


def test_each_writing_changes_the_entity_tag(tmp_path: Path) -> None:
    """ADR 4: servers make it of size and whole seconds, and two may be written within one."""
    qa = QaFarm(make_repository(tmp_path / "farm"))
    qa.build()
    seen = set()
    for outcome in (FAIL, PASS, FAIL):
        published(qa)
        path = qa.repository.path / "dashboard/index.html"
        assert path.stat().st_mode & 0o777 == 0o644
        seen.add(int(path.stat().st_mtime))
        qa.build()
        qa.judge(outcome)
    assert len(seen) == 3


def test_the_command_writes_elsewhere_and_prints_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qa = QaFarm(make_repository(tmp_path / "farm"))
    qa.build()
    base = ["--repo", str(qa.repository.path), "dashboard"]
    place = tmp_path / "web/farm"
    assert main([*base, "--output", str(place), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((place / "dashboard.json").read_bytes())
    assert (place / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert not (qa.repository.path / "dashboard").exists()
    assert main(base) == 0
    assert "3 branches" in capsys.readouterr().out
    assert (qa.repository.path / "dashboard/index.html").exists()
    (tmp_path / "file").write_text("")
    assert main([*base, "--output", str(tmp_path / "file")]) == 8
    bare = make_repository(tmp_path / "bare", Mode.BARE_USER)
    assert main(["--repo", str(bare.path), "dashboard"]) == 2


@pytest.mark.parametrize("section", ["Dashboard", "Jobs"])
def test_the_commands_of_the_operations_guide_work(tmp_path: Path, section: str) -> None:
    qa = QaFarm(make_repository(tmp_path / "farm"))
    commands = commands_in(section)
    assert len(commands) == 2
    for command in commands:
        program, *words = command.split()
        for place in ("/srv/hacktree", "/srv/tree"):
            words = [word.replace(place, str(qa.repository.path)) for word in words]
        words = [word.replace("/var/www/farm", str(tmp_path / "www")) for word in words]
        assert (program, main(words)) == ("hacktree", 0)
    assert (qa.repository.path / "dashboard/index.html").exists()


def test_a_damaged_farm_leaves_the_last_dashboard(tmp_path: Path) -> None:
    """The job fails, and says why; half of the truth is not published."""
    qa = QaFarm(make_repository(tmp_path / "farm"))
    qa.build()
    _, before = published(qa)
    (qa.repository.path / "graph/tail").write_bytes(b"damaged")
    with pytest.raises(CorruptError):
        published(qa)
    assert (qa.repository.path / "dashboard/index.html").read_text() == before


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "< 1 s"), (59.4, "59 s"), (60, "1 min"), (7500, "2 h 5 min"), (86_400, "1 d")],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert _duration(seconds) == shown
