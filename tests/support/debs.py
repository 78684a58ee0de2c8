"""A small deb of no program at all, for tests of what is done with packages."""

import subprocess
from pathlib import Path

from support.vendor import program


def build_tool(directory: Path, version: int, architecture: str, *, name: str = "tool") -> Path:
    """A package with one file, for this architecture or for all."""
    program("dpkg-deb", "dpkg")
    tree = directory / f"tree-{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        "Maintainer: Jane <jane@example.com>\nDescription: a tool\n"
    )
    (tree / "opt").mkdir()
    (tree / "opt" / name).write_text(f"{version}\n")
    package = directory / f"{name}-{version}.deb"
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", tree, package],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return package
