"""The shape of the project: one namespace over three roots, and locks that anybody can use."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from hacktree.common.cli.main import load_catalog

PROJECT = Path(__file__).resolve().parent.parent
PORTIONS = ("common", "client", "server")
LOCKS = ("build", "dev", "runtime")


@pytest.mark.parametrize("portion", PORTIONS)
def test_no_root_claims_the_namespace(portion: str) -> None:
    """A hacktree/__init__.py in one root would hide the other two."""
    assert (PROJECT / portion / "hacktree" / portion / "__init__.py").is_file()
    assert not (PROJECT / portion / "hacktree" / "__init__.py").exists()


@pytest.mark.parametrize("portion", PORTIONS)
def test_a_root_holds_only_its_own_portion(portion: str) -> None:
    """Two roots with the same package would merge, or hide one another, by install order."""
    found = {path.name for path in (PROJECT / portion / "hacktree").iterdir()} - {"__pycache__"}
    assert found == {portion}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )
    (path,) = directory.iterdir()
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_of_the_three_portions(wheel: zipfile.ZipFile) -> None:
    """What works from a checkout also works installed: no module is left out, no test is in."""
    expected = {
        path.relative_to(PROJECT / portion).as_posix()
        for portion in PORTIONS
        for path in (PROJECT / portion / "hacktree").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed >= expected
    assert {name.split("/")[0] for name in packed} == {"hacktree"}


def test_the_wheel_announces_both_commands(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    announced = wheel.read(name).decode()
    assert "hacktree = hacktree.common.cli.main:console" in announced
    assert "hacktree-pull = hacktree.client.commands.pull:console" in announced


def test_the_commands_of_all_portions_are_found() -> None:
    """The driver looks for them on the path of the namespace."""
    for portion in PORTIONS:
        assert any(
            info.module.startswith(f"hacktree.{portion}.commands.")
            for info in load_catalog().values()
        )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_by_hash_and_names_no_place(lock: str) -> None:
    """It installs the same bytes wherever they come from: a registry, a mirror, a directory."""
    text = (PROJECT / "requirements" / f"{lock}.lock").read_text()
    assert not re.search(r"://|^-", text, re.MULTILINE)
    pins = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert pins
    for pin in pins:
        assert re.match(r"[a-z0-9-]+==\S+", pin), pin
        assert "--hash=sha256:" in pin, pin


def test_the_runtime_lock_covers_what_the_project_declares() -> None:
    """A dependency added to pyproject.toml without `make lock` is found here."""
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=;\s]", line)[0].replace(".", "-").lower() for line in declared}
    text = (PROJECT / "requirements" / "runtime.lock").read_text()
    assert names <= set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


def test_the_development_lock_pins_the_same_versions_as_the_runtime_lock() -> None:
    """What is tested is what an operator installs."""
    pattern = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)
    tested = dict(pattern.findall((PROJECT / "requirements" / "dev.lock").read_text()))
    installed = dict(pattern.findall((PROJECT / "requirements" / "runtime.lock").read_text()))
    assert installed.items() <= tested.items()
