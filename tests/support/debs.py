"""A small deb of no program at all, for tests of what is done with packages."""

from pathlib import Path

from support.debsystem import Deb, make_deb


def build_tool(directory: Path, version: int, architecture: str, *, name: str = "tool") -> Path:
    """A package with one file, for this architecture or for all."""
    files: dict[str, str | bytes] = {f"opt/{name}": f"{version}\n"}
    control = {"Architecture": architecture}
    return make_deb(Deb(name, str(version), files, control=control), directory)
