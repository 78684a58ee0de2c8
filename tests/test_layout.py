"""Guards: `hacktree` stays a namespace over three folders, and the wheel holds all of them."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_hacktree_is_a_namespace_package() -> None:
    for portion in ("common", "client", "server"):
        assert not (ROOT / portion / "hacktree" / "__init__.py").exists()
        assert (ROOT / portion / "hacktree" / portion / "__init__.py").exists()


def test_the_wheel_holds_every_portion_and_entry_point(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        text = archive.read(entry_points).decode()
    for portion in ("common", "client", "server"):
        assert f"hacktree/{portion}/py.typed" in names
        assert f"{portion} = hacktree.{portion}.commands:CATALOG" in text
    assert "hacktree-pull = hacktree.client.commands.pull:main" in text
    assert "hacktree/__init__.py" not in names
