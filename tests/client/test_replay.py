"""Deploys with steps: what they may do, what is kept of it, and what a failure leaves."""

import os
import shutil
from pathlib import Path

import pytest

from hacktree.client.deploy import DeployAction, DeployOptions, ReusePolicy
from hacktree.client.replay.cache import list_entries, list_unfinished
from hacktree.client.replay.step import AfterFailure, Root, Step, StepFailedError
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from support.steps import FunctionStep, Steps, replaying, shell
from support.sysroots import assert_nothing_left_over, deploy, make_build, make_sysroot


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")


def write(name: str, text: str) -> FunctionStep:
    """A step that writes one file."""
    return FunctionStep(name, lambda root: (root.path / name).write_text(text))


def test_steps_see_one_another_and_end_up_in_the_root(sysroot: Sysroot) -> None:
    """Each on the layers before it; the record names them, and the repository is as before."""
    commit = make_build(sysroot, 1)
    touched = FunctionStep(
        "third",
        lambda root: (root.path / "seen").write_text(
            f"{root.touched(['x', 'em*'])} {root.touched(['usr/lib/*'])} {root.touched([])}"
        ),
    )
    options = replaying(
        shell("first", "echo more >>usr/bin/same; rm empty; mkdir usr/new; chmod 700 usr"),
        shell("second", "grep more usr/bin/same; mv usr/bin/same usr/new/; test ! -e empty"),
        touched,
    )
    plain = deploy(sysroot, commit)
    result = deploy(sysroot, commit, options)
    assert result.root != plain.root
    assert (sysroot.link / "usr/new/same").read_text() == "unchangedmore\n"
    assert not (sysroot.link / "usr/bin/same").exists()
    assert not (sysroot.link / "empty").exists()
    assert (sysroot.link / "seen").read_text() == "True False False"
    assert (sysroot.link / "usr").stat().st_mode & 0o777 == 0o700
    assert (sysroot.roots / plain.root / "usr/bin/same").read_text() == "unchanged"
    record = read_roots(sysroot).records[result.root]
    assert [step.name for step in record.steps] == ["first", "second", "third"]
    assert record.inputs == record.steps[-1].key
    assert_nothing_left_over(sysroot.path)


def test_equal_inputs_are_recognised(sysroot: Sysroot) -> None:
    """Nothing to do, a reused root, a changed step: what is the same is not done again."""
    commit = make_build(sysroot, 1)
    one, two = write("one", "1"), write("two", "2")
    deploy(sysroot, commit, replaying(one, two))
    again = deploy(sysroot, commit, replaying(one, two))
    assert again.action is DeployAction.NOTHING
    two.version = 2
    changed = deploy(sysroot, commit, replaying(one, two))
    assert changed.replayed is not None
    assert changed.replayed.ran == ["two"], "the first came from the cache"
    two.version = 1
    assert deploy(sysroot, commit, replaying(one, two)).action is DeployAction.REUSE
    forced = deploy(
        sysroot, commit, DeployOptions(steps_of=Steps([one, two]), reuse=ReusePolicy.REPLAY)
    )
    assert forced.action is DeployAction.CHECK_OUT
    assert forced.replayed is not None
    assert forced.replayed.ran == ["one", "two"], "--replay trusts no cache"


def test_layers_go_with_the_last_root_that_names_them(sysroot: Sysroot) -> None:
    """Retention takes roots, then what only they had been made of."""
    steps = [write("one", "1")]
    for number in (1, 2, 3):
        deploy(sysroot, make_build(sysroot, number), replaying(*steps))
    records = read_roots(sysroot).records.values()
    assert len(records) == 2, "current and previous"
    assert list_entries(sysroot) == sorted(step.key for r in records for step in r.steps)


def test_a_cached_layer_that_somebody_wrote_to_is_not_used(sysroot: Sysroot) -> None:
    """A root's files are the layer's inodes: an edit in place must not spread."""
    commit = make_build(sysroot, 1)
    steps = [write("one", "1"), write("two", "2")]
    deploy(sysroot, commit, replaying(*steps))
    (sysroot.link / "one").write_text("edited")
    steps[1].version = 2
    result = deploy(sysroot, commit, replaying(*steps))
    assert result.replayed is not None
    assert result.replayed.ran == ["one", "two"]
    assert (sysroot.link / "one").read_text() == "1"


def test_a_cached_layer_that_was_taken_apart_is_made_anew(sysroot: Sysroot) -> None:
    """Somebody cleaned up by hand: the next deploy notices, and needs no help."""
    commit = make_build(sysroot, 1)
    steps = [write("one", "1"), write("two", "2")]
    deploy(sysroot, commit, replaying(*steps))
    for version, leave in ((2, None), (3, "no directory")):
        record = read_roots(sysroot).live
        assert record is not None
        upper = sysroot.replay / record.steps[0].key / "upper"
        shutil.rmtree(upper)
        if leave is not None:
            upper.write_text(leave)
        steps[1].version = version
        result = deploy(sysroot, commit, replaying(*steps))
        assert result.replayed is not None
        assert result.replayed.ran == ["one", "two"]
        assert (upper / "one").read_text() == "1"
    assert_nothing_left_over(sysroot.path)


def test_a_failing_step_swaps_nothing(sysroot: Sysroot) -> None:
    """Its log is in the error, whole in a file that the hint names; steps before it are kept."""
    commit = make_build(sysroot, 1)
    before = deploy(sysroot, commit)
    failing = shell("broken", "echo something is wrong; exit 3")
    good = write("good", "1")
    with pytest.raises(StepFailedError, match="broken failed: sh: exit status 3") as caught:
        deploy(sysroot, commit, replaying(good, failing))
    assert caught.value.log == "something is wrong\n"
    log = Path(caught.value.hint.rpartition(": ")[2])
    assert log.read_text() == "something is wrong\n"
    assert os.readlink(sysroot.link).endswith(before.root)
    assert list_unfinished(sysroot) == []
    assert_nothing_left_over(sysroot.path)
    after = deploy(sysroot, commit, replaying(good, write("other", "2")))
    assert after.replayed is not None
    assert after.replayed.ran == ["other"]


def test_a_person_may_mend_or_skip_a_step(sysroot: Sysroot) -> None:
    """Asked in the root as the step left it; a root that lacks a step isn't taken for whole."""
    commit = make_build(sysroot, 1)
    steps = Steps([shell("broken", "echo left >left; exit 1"), write("last", "1")])
    answers = {"broken": AfterFailure.SKIP}

    def ask(step: Step, error: StepFailedError, root: Root) -> AfterFailure:
        assert (root.path / "left").read_text() == "left\n"
        with pytest.raises(StepFailedError, match="can't run /bin/sh"):
            root.shell(["/bin/sh"])
        return answers[step.name]

    result = deploy(sysroot, commit, DeployOptions(steps_of=steps, ask=ask))
    assert result.replayed is not None
    assert result.replayed.skipped == ["broken"]
    assert not (sysroot.link / "left").exists()
    assert (sysroot.link / "last").read_text() == "1"
    steps.steps[0] = write("broken", "mended")
    mended = deploy(sysroot, commit, DeployOptions(steps_of=steps))
    assert mended.changed
    assert (sysroot.link / "broken").read_text() == "mended"
