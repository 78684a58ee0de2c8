"""Config scripts: which files count, what each declares and gets, what a failure leaves."""

import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from hacktree.client.replay.sources import steps_of
from hacktree.client.replay.step import Build, StepFailedError
from hacktree.client.scripts.answers import (
    AnswersError,
    parse_answer,
    read_answers,
    render_answers,
    write_answers,
)
from hacktree.client.scripts.declarations import (
    DeclarationError,
    Declarations,
    parse_declarations,
)
from hacktree.client.scripts.editing import edit_script
from hacktree.client.scripts.step import ScriptSource
from hacktree.client.scripts.store import (
    ScriptError,
    State,
    add_script,
    describe_unused,
    enabled_scripts,
    find_scripts,
    remove_script,
    switch_script,
)
from hacktree.client.sysroot import Sysroot
from support.plain_root import PlainRoot
from support.programs import copy_programs
from support.sysroots import make_build, make_sysroot

SCRIPT = b"#!/bin/sh\ntrue\n"


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot")


@pytest.fixture
def config(sysroot: Sysroot) -> Path:
    directory = sysroot.path / "etc/hacktree/config.d"
    directory.mkdir()
    return directory


def put(config: Path, name: str, content: bytes = SCRIPT, mode: int = 0o755) -> None:
    (config / name).write_bytes(content)
    (config / name).chmod(mode)


def plain_root(sysroot: Sysroot, path: Path) -> PlainRoot:
    commit = make_build(sysroot, 1)
    path.mkdir()
    (path / "run").mkdir()
    copy_programs(path, "sh", "cat", "env")
    build = Build(sysroot, commit, sysroot.repository.load_commit(commit), None)
    return PlainRoot(path, build)


def test_which_files_run_and_in_which_order(sysroot: Sysroot, config: Path) -> None:
    """As run-parts has it, dots allowed; what is left out is told, what others left is not run."""
    for name in ("20-b", "10-a.sh", "9-c", "Z", "off.disabled"):
        put(config, name)
    for name in ("10-a.sh~", "20-b.bak", "x.dpkg-dist", "with space", ".hidden"):
        put(config, name)
    put(config, "README", b"what these are for\n", mode=0o644)
    (config / "link").symlink_to("20-b")
    states = {found.name: found.state for found in find_scripts(sysroot.path)}
    assert [name for name, state in states.items() if state is State.ENABLED] == [
        "10-a.sh",
        "20-b",
        "9-c",
        "Z",
    ]
    assert states["off"] is State.DISABLED
    assert states["README"] is State.NOT_EXECUTABLE
    assert states["link"] is State.INVALID
    assert ".hidden" not in states
    told = "\n".join(describe_unused(sysroot.path))
    assert "README is not run: it is not executable" in told
    with pytest.raises(ScriptError, match="#!"):
        switch_script(sysroot.path, "README", State.ENABLED)
    assert "10-a.sh~ is not run" in told
    assert "20-b is" not in told


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"echo no interpreter\n", 0o755, "#!"),
        (b"#!/bin/sh\n# hacktree: netwrok=yes\n", 0o755, "netwrok"),
        (SCRIPT, 0o757, "Everybody"),
        (b"", 0o755, "#!"),
    ],
)
def test_a_script_that_cannot_run_stops_the_replay_before_it_begins(
    sysroot: Sysroot, config: Path, content: bytes, mode: int, reason: str
) -> None:
    """A root without it would pass for one with it; switched off it is in nobody's way."""
    put(config, "10-bad", content, mode)
    with pytest.raises(ScriptError, match=f"(?i)10-bad.*{reason}") as raised:
        enabled_scripts(sysroot.path)
    assert "hacktree config disable 10-bad" in raised.value.hint
    assert switch_script(sysroot.path, "10-bad", State.DISABLED)
    assert enabled_scripts(sysroot.path) == []


def test_what_is_no_file_is_not_edited_and_can_be_removed(sysroot: Sysroot, config: Path) -> None:
    """A link's own mode is 0777: edited, it would become a script that everybody may write to."""
    (config / "10-link").symlink_to("elsewhere")
    (config / "20-off.disabled").symlink_to("elsewhere")
    for name in ("10-link", "20-off"):
        with pytest.raises(ScriptError, match=f"{name}: it is not a regular file"):
            edit_script(sysroot.path, name, {"EDITOR": "false"})
    put(config, "elsewhere")
    with pytest.raises(ScriptError, match="10-link: it is not a regular file"):
        edit_script(sysroot.path, "10-link", {"EDITOR": "false"})
    (config / "elsewhere").unlink()
    assert switch_script(sysroot.path, "10-link", State.DISABLED)
    for name in ("10-link", "20-off"):
        remove_script(sysroot.path, name)
    assert os.listdir(config) == []


def test_somebody_elses_script_is_refused(sysroot: Sysroot, config: Path) -> None:
    """Whoever owns a script decides what root runs."""
    put(config, "10-theirs")
    os.chown(config / "10-theirs", 4242, 4242)
    with pytest.raises(ScriptError, match="belongs to user 4242"):
        enabled_scripts(sysroot.path)


def test_declarations() -> None:
    """In the first lines, in any order, each once; whatever is not understood is an error."""
    assert parse_declarations(SCRIPT) == Declarations(network=False, limit=300)
    both = b"#!/bin/sh\n#\n#  hacktree: limit=600 network=yes\n"
    assert parse_declarations(both) == Declarations(network=True, limit=600)
    apart = b"#!/bin/sh\n# hacktree: network=yes\n# hacktree: limit=1\n"
    assert parse_declarations(apart) == Declarations(network=True, limit=1)
    late = b"#!/bin/sh\n" + b"\n" * 40 + b"# hacktree: network=yes\n"
    assert parse_declarations(late) == Declarations()
    for wrong in (
        b"network",
        b"network=maybe",
        b"limit=0",
        b"limit=86401",
        b"limit=1e3",
        b"limit=5 limit=6",
        b"\xff=1",
    ):
        with pytest.raises(DeclarationError, match="line 2"):
            parse_declarations(b"#!/bin/sh\n# hacktree: " + wrong + b"\n")


def test_answers_are_private_and_what_a_shell_reads(sysroot: Sysroot) -> None:
    """0600; any printable value comes back as it was; a file that others may read is refused."""
    answers = {"WIFI": 'it\'s $HOME `id` "x" \\', "EMPTY": "", "K_2": "ü #"}
    write_answers(sysroot.path, answers)
    path = sysroot.path / "etc/hacktree/answers.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_answers(sysroot.path) == answers
    path.write_text("# mine\n\nA=1\nB='two words'\n")
    assert read_answers(sysroot.path) == {"A": "1", "B": "two words"}
    for wrong in ("A", "A=1 2", "1=x", "A='open", "A=1\nA=2", "export A=1"):
        path.write_text(wrong)
        with pytest.raises(AnswersError, match="etc/hacktree/answers"):
            read_answers(sysroot.path)
    for text in ("A=line\nend", "=x", "a-b=c", os.fsdecode(b"A=\xff")):
        with pytest.raises(AnswersError):
            parse_answer(text)
    path.chmod(0o640)
    with pytest.raises(AnswersError, match="others"):
        read_answers(sysroot.path)


def test_the_digest_covers_whatever_decides_what_a_script_does(
    sysroot: Sysroot, config: Path
) -> None:
    """Content, declarations, mode, answers, the build; equal inputs have equal digests."""
    build = plain_root(sysroot, sysroot.path / "root").build

    def digest(build: Build = build) -> bytes:
        (step,) = ScriptSource().steps(build)
        return step.digest

    put(config, "10-a")
    digests = [digest()]
    assert digest() == digests[0]
    put(config, "10-a", mode=0o700)
    digests.append(digest())
    put(config, "10-a", b"#!/bin/sh\n# hacktree: limit=5\ntrue\n", mode=0o700)
    digests.append(digest())
    write_answers(sysroot.path, {"A": "1"})
    digests.append(digest())
    promoted = make_build(sysroot, 2)
    digests.append(digest(replace(build, id=promoted)))
    assert len(set(digests)) == 5


def test_what_a_script_finds(
    sysroot: Sysroot, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root, the build, the answers, nothing of the caller's; neither it nor they stay."""
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    put(config, "10-look", b'#!/bin/sh\nenv >/seen\n. "$HACKTREE_ANSWERS"\necho "$WHO" >/who\n')
    write_answers(sysroot.path, {"WHO": "it's me"})
    root = plain_root(sysroot, tmp_path / "root")
    (step,) = ScriptSource().steps(root.build)
    assert step.name == "script 10-look"
    step.apply(root)
    seen = dict(line.split("=", 1) for line in (root.path / "seen").read_text().splitlines())
    assert seen["HACKTREE_ROOT"] == "/"
    assert seen["HACKTREE_BUILD"] == root.build.id.hex()
    assert seen["HACKTREE_BRANCH"] == "fastqa"
    assert seen["SOURCE_DATE_EPOCH"] == "1700000001"
    assert "SECRET_OF_THE_CALLER" not in seen
    assert (root.path / "who").read_text() == "it's me\n"
    assert os.listdir(root.path / "run/hacktree") == []


def test_a_failure_names_the_next_step(sysroot: Sysroot, config: Path, tmp_path: Path) -> None:
    """And has what the script printed; script and answers stay for a shell in that root."""
    put(config, "10-fail", b"#!/bin/sh\necho to no avail\nexit 3\n")
    root = plain_root(sysroot, tmp_path / "root")
    (step,) = ScriptSource().steps(root.build)
    with pytest.raises(StepFailedError, match="exit status 3") as raised:
        step.apply(root)
    assert "hacktree config test 10-fail" in raised.value.hint
    assert "hacktree config disable 10-fail" in raised.value.hint
    assert raised.value.log == "to no avail\n"
    assert sorted(os.listdir(root.path / "run/hacktree")) == ["10-fail", "answers.env"]


def test_a_root_whose_run_is_a_link(sysroot: Sysroot, config: Path, tmp_path: Path) -> None:
    """It is not followed: script and answers would be written, and left, on the machine."""
    put(config, "10-a")
    root = plain_root(sysroot, tmp_path / "root")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root.path / "run").rmdir()
    (root.path / "run").symlink_to(outside)
    (step,) = ScriptSource().steps(root.build)
    with pytest.raises(StepFailedError, match="/run/hacktree: run is not a directory"):
        step.apply(root)
    assert os.listdir(outside) == []


def test_scripts_are_added_as_executables_that_only_their_owner_changes(sysroot: Sysroot) -> None:
    """A private one stays private; a taken or impossible name is refused."""
    assert add_script(sysroot.path, "10-a", SCRIPT, 0o666).mode == 0o755
    assert add_script(sysroot.path, "20-b", SCRIPT, 0o600).mode == 0o700
    assert [script.name for script in enabled_scripts(sysroot.path)] == ["10-a", "20-b"]
    with pytest.raises(ScriptError, match="already"):
        add_script(sysroot.path, "10-a", SCRIPT, 0o755)
    for name in ("a.bak", "a/b", "", ".a", "ä", "a b", "a.disabled"):
        with pytest.raises(ScriptError, match="no name"):
            add_script(sysroot.path, name, SCRIPT, 0o755)


def test_render_is_stable() -> None:
    """Equal answers are equal bytes, whatever their order."""
    assert render_answers({"B": "1", "A": "x y"}) == b"A='x y'\nB=1\n"


def test_triggers_alone_are_no_reason_for_a_replay(sysroot: Sysroot) -> None:
    """A machine that changes nothing has its roots as they were built."""
    commit = make_build(sysroot, 1)
    build = Build(sysroot, commit, sysroot.repository.load_commit(commit), None)
    assert [step.name for step in steps_of(build)][:1] != ["triggers"]
