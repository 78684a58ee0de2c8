"""`hacktree delta`: what people and scripts see of packs."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from hacktree.common.cli.main import main
from hacktree.common.commands import delta
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.packs import list_edges, pack_path
from hacktree.common.repository.refs import delete_ref
from hacktree.common.repository.repository import Repository, open_repository
from support.trees import Spec, make_commit

DAY = 86400


def tree(build: int) -> dict[str | bytes, Spec]:
    source = random.Random(5)
    return {
        f"usr/lib/file{number}": source.randbytes(3000) + (b"%d" % build if number < 4 else b"")
        for number in range(6)
    }


@pytest.fixture
def archive(tmp_path: Path) -> Repository:
    """Two builds, the second promoted to fastqa."""
    init_repository(tmp_path / "repo", Mode.ARCHIVE)
    repository = open_repository(tmp_path / "repo")
    make_commit(repository, tree(1), branch="fastqa")
    make_commit(repository, tree(1), branch="builds")
    promoted = make_commit(repository, tree(2), branch="builds").hex()
    make_commit(repository, tree(2), branch="fastqa", metadata={"promoted-from": promoted})
    return repository


def run(repository: Repository, *arguments: str) -> int:
    return main(["--repo", str(repository.path), "delta", *arguments])


def read_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_generate_list_show_verify(archive: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    """A promoted branch needs no packs of its own: it has the trees of the other."""
    assert run(archive, "generate", "--json", "--jobs", "1") == 0
    made = read_json(capsys)
    assert [document["kinds"] for document in made] == [{"delta": 4}, {"delta": 4}]
    assert made[0]["degraded"] == made[0]["left-out"] == []
    assert run(archive, "generate") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(archive, "list", "--json") == 0
    listed = read_json(capsys)
    assert [(row["from"], row["to"]) for row in listed] == [
        (row["from"], row["to"]) for row in reversed(made)
    ]
    assert run(archive, "list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    name = made[0]["pack"]
    assert run(archive, "show", name[:12], "--json") == 0
    assert read_json(capsys)["delta-entries"] == 4
    assert run(archive, "show", name[:12]) == 0
    assert name in capsys.readouterr().out
    assert run(archive, "verify", "--json") == 0
    assert [(row["entries"], row["problems"]) for row in read_json(capsys)] == [(4, []), (4, [])]


def test_a_dry_run_names_the_missing_packs(
    archive: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        make_commit(archive, tree(random.Random(_).randrange(10**6)), branch="builds")
    assert run(archive, "generate", "--dry-run", "builds") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run(archive, "generate", "--dry-run", "builds", "--all", "--json") == 0
    pairs = read_json(capsys)
    # 1→2→3→4→5, 2→4, and the ways back.
    assert len(pairs) == 2 * 5
    assert {pair["from"] for pair in pairs} == {pair["to"] for pair in pairs}
    assert list_edges(archive) == []


def test_one_pack_between_any_two_builds(
    archive: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--from", "builds~1", "--to", "fastqa", "--quiet")
    assert run(archive, "generate", *arguments) == 0
    assert len(list_edges(archive)) == 1
    assert run(archive, "generate", *arguments, "--force") == 0
    assert len(list_edges(archive)) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "nightly"), "no branch nightly"),
        (("generate", "--from", "builds"), "go together"),
        (("generate", "--from", "builds", "--to", "fastqa"), "same tree"),
        (("generate", "--from", "builds~9", "--to", "builds"), "builds~9"),
        (("show", "0f0f"), "no pack named 0f0f"),
        (("verify", "0f0f"), "no pack named 0f0f"),
        (("prune", "--older-than", "soon"), "not a duration"),
    ],
)
def test_wrong_input_is_told(
    archive: Repository,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run(archive, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_client_s_repository_publishes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_repository(tmp_path / "machine", Mode.BARE_USER)
    machine = open_repository(tmp_path / "machine")
    assert run(machine, "generate") == 2
    assert run(machine, "prune") == 2
    assert "publishes no packs" in capsys.readouterr().err
    assert run(machine, "list") == 0


def test_verify_finds_a_damaged_frame(
    archive: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(archive, "generate", "--from", "builds~1", "--to", "builds", "-q", "-j", "1") == 0
    (edge,) = list_edges(archive)
    path = pack_path(archive, edge.pack)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run(archive, "verify") == 5
    assert "sha256" in capsys.readouterr().out
    path.unlink()
    assert run(archive, "verify") == 5


def test_packs_of_pruned_builds_are_retired_in_time(
    archive: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that leads to a pruned build at once; the one that leads away from it stays, since
    testers are still on it, and goes 90 days later.
    """

    def later(days: float) -> None:
        monkeypatch.setattr(time, "time", lambda: started + days * DAY)

    started = time.time()
    assert run(archive, "generate", "-q", "-j", "1") == 0
    assert run(archive, "prune", "--json") == 0
    assert read_json(capsys) == {"retired": [], "deleted": []}
    delete_ref(archive, "builds")
    assert main(["--repo", str(archive.path), "prune", "--keep-depth", "0", "--no-grace"]) == 0
    capsys.readouterr()
    assert run(archive, "verify") == 0
    assert capsys.readouterr().out.count("only hashed, 0 bad") == 2
    assert run(archive, "prune", "--dry-run") == 0
    assert "1 packs retired" in capsys.readouterr().out
    assert len(list_edges(archive)) == 2
    assert run(archive, "prune", "-q") == 0
    (kept,) = list_edges(archive)
    assert archive.has_meta(kept.new)
    assert kept.old is not None
    assert not archive.has_meta(kept.old)
    assert run(archive, "show", kept.pack.hex()) == 0
    assert len(list((archive.path / "packs").iterdir())) == 2
    later(7.1)
    assert run(archive, "prune", "-q") == 0
    assert [path.name for path in (archive.path / "packs").iterdir()] == [kept.pack.hex()]
    later(91)
    assert run(archive, "prune", "-q") == 0
    assert list_edges(archive) == []
    later(99)
    assert run(archive, "prune", "-q") == 0
    assert list((archive.path / "packs").iterdir()) == []


def test_a_damaged_pack_of_a_pruned_build_is_found(
    archive: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(archive, "generate", "--from", "builds~1", "--to", "builds", "-q", "-j", "1") == 0
    delete_ref(archive, "builds")
    assert main(["--repo", str(archive.path), "prune", "--keep-depth", "0", "--no-grace"]) == 0
    (edge,) = list_edges(archive)
    path = pack_path(archive, edge.pack)
    path.write_bytes(path.read_bytes()[:-1])
    assert run(archive, "verify", edge.pack.hex()[:8]) == 5
    path.unlink()
    assert run(archive, "verify") == 5


def test_explain_says_where_the_bytes_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(random.Random(1).randbytes(50_000))
    new.write_bytes(old.read_bytes()[:20_000] + b"inserted" + old.read_bytes()[20_000:])
    assert main(["delta", "explain", "--json", str(old), str(new)]) == 0
    document = read_json(capsys)
    assert document["kind"] == "delta"
    assert document["total"] < 200
    assert (document["old"], document["new"]) == (50_000, 50_008)
    assert sum(document["streams"].values()) <= document["total"]
    assert main(["delta", "explain", str(old), str(new)]) == 0
    assert f"{document['total']} bytes (delta)" in capsys.readouterr().out
    assert main(["delta", "explain", str(old), str(tmp_path / "absent")]) == 8


@pytest.mark.parametrize("action", delta.ACTIONS)
def test_every_action_says_how_it_ends(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["delta", action, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert "Exit statuses:" in text


def test_options_of_the_driver_may_stand_anywhere(
    archive: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(archive.path)
    for arguments in (
        ["--repo", path, "--json", "delta", "list"],
        ["delta", "--json", "--repo", path, "list"],
        ["delta", "list", "--repo", path, "--json"],
    ):
        assert main(arguments) == 0
        assert read_json(capsys) == []
    with pytest.raises(SystemExit) as ended:
        main(["delta"])
    assert ended.value.code == 2


def test_completion_knows_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for action in delta.ACTIONS:
        assert f"delta_{action}" in script
