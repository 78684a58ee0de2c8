"""From a commit to a tester's machine by the commands alone: build, test, sign, pull."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from hacktree.client.connect import open_source
from hacktree.client.signed_heads import SignedHeads
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import parse_object_id
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.report import fingerprint
from hacktree.server.promotion.desk import Assignment
from support.pulling import FakeTime, assert_whole, make_repository, patience
from support.qa import FASTQA, QaFarm, scratch_left
from support.servers import api_serving, hacktree_program
from support.trusting import BUILDS, SignedFarm, new_signer, trusting_remote

COMMAND = "grep -q good $HACKTREE_ROOT/etc/version && echo fine"


@pytest.fixture
def qa(tmp_path: Path) -> QaFarm:
    return QaFarm(make_repository(tmp_path / "farm"), COMMAND)


def hacktree(repository: Repository, *arguments: str, status: int = 0) -> str:
    """Run the command in a process of its own; returns its standard output."""
    done = subprocess.run(
        [hacktree_program(), "--repo", str(repository.path), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, f"{arguments}: {done.returncode} {done.stdout}{done.stderr}"
    return done.stdout


def as_json(repository: Repository, *arguments: str) -> Any:
    return json.loads(hacktree(repository, *arguments, "--json"))


def key_file(path: Path, signer: CryptoSigner) -> str:
    write_durably(path, signer.private_bytes)
    return str(path)


async def test_from_a_commit_to_a_tester(qa: QaFarm, tmp_path: Path) -> None:
    """The branch moved, with promoted-from, signed; a client that trusts nobody else pulls it."""
    signed = SignedFarm(qa.repository)
    key = key_file(tmp_path / "fastqa-key", signed.keys[FASTQA])
    build = qa.build("good")
    signed.sign(build, BUILDS)

    verdict = as_json(qa.repository, "qa", "run", "fastqa", "--machine", "lab-1")
    assert (verdict["outcome"], verdict["build"]) == ("pass", build.hex())
    status = as_json(qa.repository, "branch", "status", "fastqa")
    assert (status["moving"], status["cause"]) == (True, "moving")

    promoted = as_json(qa.repository, "qa", "sign", "fastqa", "--key", key)
    assert promoted["promoted-from"] == build.hex()
    again = as_json(qa.repository, "qa", "sign", "fastqa", "--key", key)
    assert (again["promoted"], again["cause"]) == (False, "up-to-date")

    tester = make_repository(tmp_path / "tester", Mode.BARE_USER)
    remote = trusting_remote(tester, signed)
    async with open_source(remote, patience(FakeTime()), 4) as source:
        head = await SignedHeads(tester, remote, source).read_head(FASTQA)
    assert head.hex() == promoted["head"]
    hacktree(tester, "pull", "--pull-only", "fastqa")
    assert assert_whole(tester, head)[b"etc/version"] == b"good"
    commit = tester.load_commit(head)
    assert commit.metadata["promoted-from"] == build.hex()
    assert scratch_left(qa.repository) == []


def test_a_failed_build_stays_and_status_says_why(qa: QaFarm) -> None:
    build = qa.build("bad")
    assert as_json(qa.repository, "qa", "run", "fastqa")["outcome"] == "fail"
    hacktree(qa.repository, "qa", "sign", "fastqa")
    told = hacktree(qa.repository, "branch", "status", "fastqa")
    assert build.hex()[:12] in told
    assert "verdict 1" in told
    assert "exit status 1" in told
    assert "nothing was promoted to it yet" in told
    assert "nothing to test" in hacktree(qa.repository, "qa", "run", "fastqa")


def test_a_container_hides_the_farm(qa: QaFarm) -> None:
    farm = qa.repository.path
    (farm / "server.toml").write_text(
        f'[suites.fastqa]\nsource = "builds"\ncommand = ["/bin/ls", "{farm}/objects"]\n'
        'limit = "1m"\n'
    )
    qa.build()
    hidden = as_json(qa.repository, "qa", "run", "fastqa", "--sandbox", "container")
    assert hidden["outcome"] == "fail"
    qa.build("another")
    seen = as_json(qa.repository, "qa", "run", "fastqa", "--sandbox", "none")
    assert seen["outcome"] == "pass"


def test_the_log_is_where_status_says(qa: QaFarm) -> None:
    qa.build("bad")
    (qa.repository.path / "server.toml").write_text(
        '[suites.fastqa]\nsource = "builds"\ncommand = ["/bin/sh", "-c", "echo broke; exit 1"]\n'
        'limit = "1m"\n'
    )
    hacktree(qa.repository, "qa", "run", "fastqa")
    told = hacktree(qa.repository, "branch", "status", "fastqa")
    match = re.search(r"log: (\S+)", told)
    assert match is not None
    assert Path(match[1]).read_text() == "broke\n"


def test_a_person_promotes_holds_and_releases(qa: QaFarm) -> None:
    build = qa.build("bad")
    why = ["--reason", "demo on Monday", "--by", "ann"]
    hacktree(qa.repository, "hold", "fastqa", *why)
    assert "held by ann" in hacktree(qa.repository, "branch", "status", "fastqa")
    hacktree(qa.repository, "promote", "fastqa", "builds", *why, status=2)
    hacktree(qa.repository, "release", "fastqa", *why)
    hacktree(qa.repository, "release", "fastqa", *why, status=2)
    done = as_json(qa.repository, "promote", "fastqa", "builds", *why)
    assert done["promoted-from"] == build.hex()
    head = qa.repository.load_commit(parse_object_id(done["head"]))
    assert head.metadata["promotion-reason"] == "demo on Monday"
    assert head.metadata["promoted-by"] == "ann"


def test_a_signed_farm_without_its_key_moves_nothing(qa: QaFarm, tmp_path: Path) -> None:
    signed = SignedFarm(qa.repository)
    signed.sign(qa.build("good"), BUILDS)
    hacktree(qa.repository, "qa", "run", "fastqa")
    hacktree(qa.repository, "qa", "sign", "fastqa", status=2)
    wrong = key_file(tmp_path / "ci-key", signed.keys[BUILDS])
    hacktree(qa.repository, "qa", "sign", "fastqa", "--key", wrong, status=2)
    assert as_json(qa.repository, "branch", "status", "fastqa")["head"] is None


def test_watching_runner_and_signer_move_the_branch_by_themselves(qa: QaFarm) -> None:
    """Both look again and again, name each reason to wait once, and end by SIGTERM."""
    watching = ["--watch", "--interval", "0.1", "--json"]
    with (
        started(qa, "qa", "run", "fastqa", *watching) as runner,
        started(qa, "qa", "sign", "fastqa", *watching) as signer,
    ):
        assert "idle" in next_document(runner)
        assert next_document(signer)["cause"] == "empty"
        for number in (1, 2):
            build = qa.build(f"good {number}")
            promoted = await_document(signer, "head")
            assert (promoted["promoted-from"], promoted["sequence"]) == (build.hex(), number)
            assert await_document(runner, "outcome")["build"] == build.hex()
        runner.terminate()
        signer.terminate()
        assert runner.wait(60) == 130
    assert scratch_left(qa.repository) == []


@contextmanager
def started(qa: QaFarm, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [hacktree_program(), "--repo", str(qa.repository.path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_document(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def await_document(process: subprocess.Popen[str], key: str) -> Any:
    while key not in (document := next_document(process)):
        pass
    return document


@pytest.mark.parametrize("action", ["run", "sign"])
def test_an_unknown_suite_is_refused(qa: QaFarm, action: str) -> None:
    hacktree(qa.repository, "qa", action, "slowqa", status=2)


def test_help_has_examples_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("qa", "promote", "hold", "release", "branch"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert "Examples:" in text
        assert "Exit statuses:" in text


@pytest.fixture
def runner_repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "runner", Mode.BARE_USER)


@pytest.fixture
def served(qa: QaFarm) -> Iterator[str]:
    with api_serving(qa.repository.path) as server:
        yield server.url


def token_file(qa: QaFarm, path: Path) -> str:
    secret = hacktree(
        qa.repository, "token", "create", "--can", "verdict:fastqa", "--expires", "1h"
    )
    path.write_text(secret)
    return str(path)


def test_runners_on_other_machines_share_the_builds(
    qa: QaFarm, served: str, tmp_path: Path
) -> None:
    """Two machines, each with a repository and a token of its own; each build is tested once."""
    builds = {qa.build(f"bad {number}").hex() for number in range(4)}
    runners = []
    for name in ("lab-1", "lab-2"):
        mine = make_repository(tmp_path / name, Mode.BARE_USER)
        hacktree(mine, "remote", "add", "farm", served, "--unsigned")
        token = token_file(qa, tmp_path / f"{name}.token")
        arguments = ["--server", served, "--token-file", token, "--machine", name, "--json"]
        runners.append((mine, arguments))
    tested: list[str] = []
    for _ in range(2):
        processes = [
            subprocess.Popen(
                [hacktree_program(), "--repo", str(mine.path), "qa", "run", "fastqa", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for mine, arguments in runners
        ]
        for output, errors in [process.communicate() for process in processes]:
            document = json.loads(output or errors)
            assert document.get("outcome") == "fail", errors
            tested.append(document["build"])
    assert len(tested) == len(builds)
    assert set(tested) == builds


def test_a_runner_without_a_valid_token_is_refused(
    qa: QaFarm, served: str, runner_repository: Repository, tmp_path: Path
) -> None:
    qa.build("good")
    bad = tmp_path / "token"
    bad.write_text("ht_00000000_nonsense\n")
    arguments = ["qa", "run", "fastqa", "--server", served]
    hacktree(runner_repository, *arguments, "--token-file", str(bad), status=4)
    hacktree(runner_repository, *arguments, status=2)


def test_a_runner_that_can_not_pull_gives_the_build_up(
    qa: QaFarm, served: str, runner_repository: Repository, tmp_path: Path
) -> None:
    qa.build("good")
    token = token_file(qa, tmp_path / "token")
    arguments = ["qa", "run", "fastqa", "--server", served, "--token-file", token]
    hacktree(runner_repository, *arguments, status=4)
    assert isinstance(qa.desk().claim(FASTQA, "lab-9"), Assignment)


def test_people_and_the_signer_work_from_elsewhere(
    qa: QaFarm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over HTTP, with a token and the key: nothing of the farm's is on this machine."""
    signed = SignedFarm(qa.repository)
    key = key_file(tmp_path / "fastqa-key", signed.keys[FASTQA])
    root = fingerprint(signed.store.first_root())
    builds = []
    for content in ("good 1", "good 2"):
        builds.append(qa.build(content))
        signed.sign(builds[-1], BUILDS)
    secret = hacktree(qa.repository, "token", "create", "--can", "promote:**", "--expires", "1d")
    (tmp_path / "token").write_text(secret)
    with api_serving(qa.repository.path) as server:
        farm = ("--server", server.url, "--token-file", str(tmp_path / "token"))
        signer = (
            *farm, "--sign-with", key, "--source", "builds", "--state", str(tmp_path / "state"),
        )  # fmt: skip
        why = ("--reason", "demo on Monday")

        def ask(*words: str, status: int = 0) -> Any:
            assert main([*words, "--json"]) == status, f"{words}: {capsys.readouterr()}"
            shown = capsys.readouterr()
            return json.loads(shown.out or shown.err)

        # Nobody has told it yet whom to believe.
        assert "--root-fingerprint" in str(ask("qa", "sign", "fastqa", *signer, status=2))
        first = ask("qa", "sign", "fastqa", *signer, "--root-fingerprint", root)
        assert first["cause"] == "untested"
        assert "--sign-with" in str(ask("promote", "fastqa", "builds~1", *why, *farm, status=4))
        done = ask("promote", "fastqa", "builds~1", *why, *signer)
        assert done["promoted-from"] == builds[0].hex()
        assert ask("promote", "fastqa", "builds~1", *why, *signer)["repeated"]
        ask("hold", "fastqa", *why, *farm)
        hacktree(qa.repository, "qa", "run", "fastqa")
        assert ask("qa", "sign", "fastqa", *signer)["cause"] == "branch-held"
        assert ask("branch", "status", "fastqa", *farm)["cause"] == "branch-held"
        ask("release", "fastqa", *why, *farm)
        ask("release", "fastqa", *why, *farm, status=4)
        assert ask("qa", "sign", "fastqa", *signer)["promoted-from"] == builds[1].hex()
        assert main(["branch", "status", "fastqa", *farm]) == 0
        assert builds[1].hex()[:12] in capsys.readouterr().out
    assert as_json(qa.repository, "branch", "status", "fastqa")["signed"]


@pytest.mark.parametrize(
    "words",
    [
        ("qa", "sign", "fastqa", "--source", "builds"),
        ("qa", "sign", "fastqa", "--server", "http://127.0.0.1:1"),
        ("hold", "fastqa", "--reason", "x", "--token-file", "t"),
        ("hold", "fastqa", "--reason", "x", "--by", "me", "--server", "http://127.0.0.1:1"),
        ("promote", "fastqa", "x", "--reason", "x", "--by", "me", "--server", "http://127.0.0.1:1"),
        ("branch", "status", "fastqa", "--server", "ftp://127.0.0.1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    qa: QaFarm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setenv("HACKTREE_TOKEN", "secret")
    assert main(["--repo", str(qa.repository.path), *words]) == 2
    assert capsys.readouterr().err.startswith("hacktree: ")


@pytest.mark.parametrize(
    "words",
    [
        ("qa", "run", "fastqa"),
        ("qa", "retest", "fastqa", "--reason", "x"),
        ("qa", "sign", "fastqa", "--source", "builds"),
        ("promote", "fastqa", "x", "--reason", "x"),
        ("hold", "fastqa", "--reason", "x"),
        ("release", "fastqa", "--reason", "x"),
        ("branch", "status", "fastqa"),
    ],
)
def test_a_token_that_others_could_read_is_sent_with_a_warning(
    qa: QaFarm, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...],
) -> None:  # fmt: skip
    """Nothing listens at these ports; 0.0.0.0 reaches this machine, and is no loopback address."""
    monkeypatch.setenv("HACKTREE_TOKEN", "secret")
    signs = words[:2] == ("qa", "sign")
    key = key_file(tmp_path / "key", new_signer()) if signs else ""
    signer = ("--sign-with", key, "--state", str(tmp_path), "--root-fingerprint", "0" * 64)
    for server, warned in (("http://0.0.0.0:1", True), ("http://127.0.0.1:1", False)):
        asked = [*words, "--server", server, *(signer if signs else ())]
        assert main(["--repo", str(qa.repository.path), *asked]) == 4
        assert ("token can be read on its way" in capsys.readouterr().err) is warned
